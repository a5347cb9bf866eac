"""Continuous normalizing flows exported at a tolerance, beside discrete flows of the same size.

Each flow of the table is exported with a certificate. The files are then asked: the likelihood of
test data in nats, there and back through both directions, and, in the plane, the integral of the
density. Neural spline flows and masked autoregressive flows of zuko, as many parameters, see the
same batches in the same number of steps of the same optimiser, at the better of two learning rates.
A run that was stopped goes on from the checkpoints in ``runs/flows``.

    python benchmarks/flows.py [--tol 1e-2] [--budget 60] [--only files|discrete|answers]
        [--flow cnf-moons|cnf-tabular]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import odedeploy
from odedeploy import api, models
from odedeploy.models import checkpoint, cnf, cnf_moons, cnf_tabular, magic, training
from odedeploy.models.tasks import Batch, Metrics, Task
from odedeploy.runtime import Model
from odedeploy.spec import ExportSpec

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "flows.json"
FIGURE = HERE.parent / "docs" / "cnf.png"
RUNS = Path("runs") / "flows"
RATES = (5e-3, 1e-3)
BOX = ((-3.0, 3.0), (-2.25, 2.25))
TASKS: dict[str, Callable[[], Task]] = {
    "cnf-moons": cnf_moons.task,
    "cnf-tabular": cnf_tabular.task,
}
SHAPES = {"NSF": {"transforms": 2, "bins": 8}, "MAF": {"transforms": 5}}
"""What is fixed of each discrete flow; its hidden layers are as wide as its size allows."""

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tol", type=float, default=1e-2)
    parser.add_argument("--budget", type=float, default=60, help="seconds of each search")
    parser.add_argument("--only", choices=("files", "discrete", "answers"), help="one part of it")
    parser.add_argument("--flow", nargs="+", choices=TASKS, default=list(TASKS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    if asked.only in (None, "files"):
        for name in (name for name in models.MODELS if name.startswith(tuple(asked.flow))):
            if not current(name, asked.tol):
                keep("files", name, exported(name, asked.tol, asked.budget))
    if asked.only in (None, "discrete"):
        for name in asked.flow:
            keep("discrete", name, discrete(name))
    if asked.only in (None, "answers"):
        for name in asked.flow:
            keep("answers", name, answers(name))
        figure()
    report(results())


def results() -> dict[str, dict[str, Row]]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def keep(part: str, name: str, row: Row) -> None:
    """Write one more measurement, so that a run that is stopped loses none."""
    found = results()
    found.setdefault(part, {})[name] = row
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def current(name: str, tol: float) -> bool:
    """Whether the file was exported from the shipped weights already."""
    row = results().get("files", {}).get(name, {})
    made = (row.get("weights"), row.get("tol")) == (models.card(name)["sha256"], tol)
    return made and file(name).is_file()


def file(name: str) -> Path:
    return RUNS / f"{name}.onnx"


def opened(name: str) -> Callable[..., np.ndarray]:
    """The exported file as a function of its inputs by name, 2,000 rows at a time."""
    session: Model = odedeploy.load(file(name), threads=1)

    def call(**inputs: np.ndarray) -> np.ndarray:
        count = len(next(iter(inputs.values())))
        parts = [
            {key: array[first : first + 2000] for key, array in inputs.items()}
            for first in range(0, count, 2000)
        ]
        return np.concatenate([*(session.run(p, check=False)["output"] for p in parts)])

    return call


def exported(name: str, tol: float, budget: float) -> Row:
    """The certified file of a flow."""
    began = time.monotonic()
    made = api.deploy(api.load_model(name), ExportSpec(tol=tol, budget=budget), file(name))
    return {"weights": models.card(name)["sha256"], "tol": tol,
            "solver": made.plan["solver"], "nfe": made.plan["nfe"],
            "bound": made.error.bound, "median": made.error.median, "samples": made.error.samples,
            "bytes": made.bytes, "promise": made.promise,
            "seconds": round(time.monotonic() - began, 1)}  # fmt: skip


def answers(name: str) -> Row:
    """What the two files of a flow say about test data, and each about the other."""
    density, sampler, card = opened(name), opened(f"{name}-sampler"), models.card(name)
    moons = name == cnf_moons.NAME
    x = cnf_moons.points(16_384, 1) if moons else magic.load("test")
    out = density(x=x)
    back = sampler(noise=out[:, :-1])
    apart = np.linalg.norm(back - x, axis=1) / np.linalg.norm(x, axis=1)
    row = {"parameters": card["parameters"], "training_seconds": card["seconds"],
           "steps": card["steps"]["done"], "nll_own_solve": card["test"]["nll"],
           "nll_file": -out[:, -1].mean(dtype=float),
           "round_trip": quantiles(apart)}  # fmt: skip
    if moons:
        points, area = plane(400)
        row["integral"] = float(np.exp(density(x=points)[:, -1].astype(float)).sum() * area)
        row["nll_truth"] = -float(cnf_moons.true_log_density(x).mean())
        return row
    return row | random_trace()


def quantiles(errors: np.ndarray) -> dict[str, float]:
    return {f"q{int(100 * q)}": float(np.quantile(errors, q)) for q in (0.5, 0.99)}


def random_trace(draws: int = 16) -> Row:
    """Likelihood by one random direction a row, and how far one draw strays from the next."""
    x, call = magic.load("test"), opened("cnf-tabular-hutchinson")
    found = np.stack([call(x=x, noise=cnf.signs(*x.shape, seed=s))[:, -1] for s in range(draws)])
    return {"nll_hutchinson": -float(found.mean(dtype=float)),
            "hutchinson_deviation_median": float(np.median(found.std(0)))}  # fmt: skip


def discrete(name: str) -> dict[str, Row]:
    """Each discrete flow, trained at the learning rate that is better on held-out data."""
    rows = {}
    for kind, shape in SHAPES.items():
        runs = [trained(name, kind, shape, rate) for rate in RATES]
        rows[kind] = min(runs, key=lambda run: float(run["held_out"]))
    return rows


def trained(name: str, kind: str, shape: dict[str, int], rate: float) -> Row:
    import zuko

    task, size = TASKS[name](), models.card(name)["parameters"]
    rows = torch.from_numpy(models.build(name)[1]["x"][:1])

    def made(width: int) -> nn.Module:
        flow: nn.Module = getattr(zuko.flows, kind)(
            rows.shape[1], hidden_features=(width, width), **shape
        )
        return flow

    width = max(w for w in range(4, 129) if parameters(made(w)) <= size)
    done = models.card(name)["recipe"]
    recipe = replace(
        task.recipe, epochs=done["epochs"], batch=done["batch"], tolerances=(), learning_rate=rate
    )
    asked = replace(
        task, name=f"{kind} on {name}", model=lambda: made(width), loss=loss, recipe=recipe,
        held_out=lambda flow: measure(flow, models.build(name)[1]["x"]),
    )  # fmt: skip
    path = RUNS / f"{name}-{kind}-{rate:g}-{asked.steps}.ckpt"
    flow = training.run(asked, path, device="cpu")
    test = cnf_moons.points(16_384, 1) if name == cnf_moons.NAME else magic.load("test")
    return {"parameters": parameters(flow), "width": width, "learning_rate": rate,
            "steps": asked.steps, "batch": recipe.batch,
            "seconds": round(checkpoint.read(path).seconds, 1),
            "held_out": measure(flow, models.build(name)[1]["x"])["nll"],
            "nll": measure(flow, test)["nll"]}  # fmt: skip


def parameters(flow: nn.Module) -> int:
    return sum(p.numel() for p in flow.parameters())


def loss(flow: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
    return -flow().log_prob(batch[0]).mean(), {}


@torch.no_grad()
def measure(flow: nn.Module, x: np.ndarray) -> Metrics:
    return {"nll": -flow().log_prob(torch.from_numpy(x)).double().mean().item()}


def plane(side: int) -> tuple[np.ndarray, float]:
    """The midpoints of side² cells that cover ``BOX``, row by row, and the area of a cell."""
    x, y = (low + (high - low) * (np.arange(side) + 0.5) / side for low, high in BOX)
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)
    return points, float(np.prod([(high - low) / side for low, high in BOX]))


def report(found: Row) -> None:
    print("| file | solver | NFE | certified bound | KB |\n|---|---|---|---|---|")
    for name, row in found.get("files", {}).items():
        print(f"| `{name}` | {row['solver']} | {row['nfe']} | {row['bound']:.1e} "
              f"| {row['bytes'] / 1024:.0f} |")  # fmt: skip
    print("\n| data | flow | parameters | training, s | NLL, nats |\n|---|---|---|---|---|")
    for name, row in found.get("answers", {}).items():
        print(f"| {name} | the file | {row['parameters']:,} | {row['training_seconds']:.0f} "
              f"| {row['nll_file']:.3f} |")  # fmt: skip
        print(f"| {name} | its own solve | | | {row['nll_own_solve']:.3f} |")
        for kind, other in found.get("discrete", {}).get(name, {}).items():
            print(f"| {name} | {kind} | {other['parameters']:,} | {other['seconds']:.0f} "
                  f"| {other['nll']:.3f} |")  # fmt: skip
    print(json.dumps(found.get("answers"), indent=1))


def figure() -> None:
    """Data, samples, density by the files; trajectories by the model; on the moons."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plot, axes = plt.subplots(1, 4, figsize=(12, 2.6), sharex=True, sharey=True)
    clouds = {
        "data": cnf_moons.points(3000, 2),
        "samples of the file": opened("cnf-moons-sampler")(noise=cnf.normal(3000, 2, 2)),
    }
    for axis, (title, points) in zip(axes, clouds.items(), strict=False):
        axis.plot(*points.T, ".", ms=1.2, color="C0", alpha=0.5)
        axis.set_title(title)
    log_density = opened("cnf-moons")(x=plane(240)[0])[:, -1].reshape(240, 240)
    axes[2].imshow(np.exp(log_density), origin="lower", extent=[*BOX[0], *BOX[1]], cmap="viridis")
    axes[2].set_title("density of the file")
    paths = trajectories(cnf.normal(120, 2, 4))
    axes[3].plot(paths[:, :, 0], paths[:, :, 1], lw=0.6, color="0.6")
    axes[3].plot(*paths[0].T, ".", ms=2.5, color="C1", label="t = 0")
    axes[3].plot(*paths[-1].T, ".", ms=2.5, color="C0", label="t = 1")
    axes[3].legend(loc="upper right", fontsize=7)
    axes[3].set_title("trajectories")
    for axis in axes:
        axis.set(xlim=BOX[0], ylim=BOX[1], xticks=[], yticks=[], aspect="equal")
    plot.tight_layout(pad=0.4)
    plot.savefig(FIGURE, dpi=90)
    plt.close(plot)


@torch.no_grad()
def trajectories(noise: np.ndarray) -> np.ndarray:
    """States (times, n, 2) of the sampler of the moons from t = 0 to t = 1."""
    from torchdiffeq import odeint

    sampler, _ = cnf_moons.build_sampler()
    times = torch.linspace(0, 1, 41)
    states: np.ndarray = odeint(sampler.field, torch.from_numpy(noise), times).numpy()
    return states


if __name__ == "__main__":
    main()
