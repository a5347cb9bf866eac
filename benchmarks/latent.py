"""``latent-ode-spirals`` beside a recurrent network of its size: predictive RMSE, and a picture.

Both are trained here by their recipes from several seeds, once on whole trajectories and once, as
in the paper, on the half that may be observed; a run that was stopped goes on where it was. The
latent ODE is measured by its exported file too, and the cost of a query is timed.

    python benchmarks/latent.py [--seeds 0 1 …] [--known 100 200] [--model latent rnn]
        [--runs runs/latent] [--train]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from latent_rnn import GapRnn
from latent_rnn import task as rnn_task

import odedeploy
from odedeploy import api
from odedeploy.models import latent_ode, spirals, training
from odedeploy.models.latent_ode import LatentOde
from odedeploy.models.tasks import Task
from odedeploy.spec import ExportSpec

PAPER = {"RNN": (0.394, 0.320, 0.181), "latent ODE": (0.164, 0.150, 0.135)}
"""Table 2 of the paper, as recalled."""

QUERIES = (1, 10, 100)
WHOLE = len(spirals.TIMES)
KNOWN = (WHOLE, spirals.POINTS)
"""How many points of a training trajectory are known; the paper knows those of the first half."""

TASKS: dict[str, Callable[[int], Task]] = {
    "latent": lambda known: latent_ode.learn(
        LatentOde, latent_ode.RECIPE, spirals.TRAINING_COUNT, known
    ),
    "rnn": lambda known: rnn_task(known=known),
}
RESULTS = Path(__file__).parent / "results" / "latent.json"
FIGURE = Path(__file__).parent.parent / "docs" / "latent-ode.png"
INK = {"latent ODE": "#0b6e99", "RNN": "#c2571a"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--known", type=int, nargs="+", choices=KNOWN, default=KNOWN)
    parser.add_argument("--model", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--runs", type=Path, default=Path("runs/latent"))
    parser.add_argument("--train", action="store_true", help="only train and measure the seeds")
    asked = parser.parse_args()
    asked.runs.mkdir(parents=True, exist_ok=True)
    for seed, known, name in product(asked.seeds, asked.known, asked.model):
        task = TASKS[name](known)
        model = training.run(task, checkpoint(asked.runs, task, known, seed), seed=seed,
                             device="cpu")  # fmt: skip
        keep(known, name, seed, {"parameters": sum(p.numel() for p in model.parameters()),
                                 **task.test(model)})  # fmt: skip
    if asked.train:
        return
    shipped, _ = latent_ode.build()
    RESULTS.write_text(json.dumps({**results(), "exported": exported(shipped)}, indent=1) + "\n")
    report(results())
    rnn = training.run(rnn_task(), checkpoint(asked.runs, rnn_task(), WHOLE, 0), device="cpu")
    assert isinstance(rnn, GapRnn)
    figure(shipped, rnn)


def checkpoint(runs: Path, task: Task, known: int, seed: int) -> Path:
    return runs / f"{task.name}-{seed}{'' if known == WHOLE else f'-{known}'}.ckpt"


def results() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def keep(known: int, name: str, seed: int, row: dict[str, float]) -> None:
    """Write one more measurement, so that a run that is stopped loses none."""
    found = results()
    found.setdefault(str(known), {}).setdefault(name, {})[str(seed)] = row
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def exported(model: LatentOde) -> dict[str, Any]:
    """The file at 1e-2 in onnxruntime: its promise, predictive RMSE, and time by queries."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spirals.onnx"
        manifest = api.deploy(api.load_model(latent_ode.NAME), ExportSpec(tol=1e-2), path)
        session = odedeploy.load(path, threads=1)
        drawn = spirals.draw(spirals.TEST_COUNT, spirals.TEST)
        ahead = spirals.TIMES[spirals.POINTS :].numpy()
        rows = {}
        for observations in spirals.OBSERVATIONS:
            generator = torch.Generator().manual_seed(spirals.TEST)
            counts = torch.full((len(drawn.true),), observations)
            seen = spirals.observe(drawn, counts, generator)
            given = {name: part[:, :observations].numpy() for name, part in seen._asdict().items()}
            given["query"] = np.tile(ahead, (len(drawn.true), 1))
            path_found = torch.from_numpy(session.run(given)["output"])
            rows[f"rmse_{observations}"] = spirals.rmse(path_found, drawn.true[:, spirals.POINTS :])
        return {
            "solver": manifest.plan["solver"],
            "nfe": manifest.plan["nfe"],
            "promise": manifest.promise,
            "bound": manifest.error.bound,
            **rows,
            "milliseconds": {n: milliseconds(session, n) for n in QUERIES},
        }


def milliseconds(session: Any, queries: int, repeats: int = 200) -> float:
    """Median time of one trajectory with 50 observations and so many queries."""
    given = latent_ode.calibration(1)
    given = {name: array[:, :50] for name, array in given.items() if name != "query"}
    given["query"] = np.linspace(0.02, 2, queries, dtype=np.float32)[None]
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        session.run(given, check=False)
        taken.append(1e3 * (time.perf_counter() - began))
    return float(np.median(taken))


def report(result: dict[str, Any]) -> None:
    print("| known in training | | parameters | 30 of 100 | 50 of 100 | 100 of 100 |")
    print("|---|---|---|---|---|---|")
    for name, figures in PAPER.items():
        print(f"| | {name}, the paper's | – | {' | '.join(f'{x:.3f}' for x in figures)} |")
    for known, name in product(KNOWN, TASKS):
        rows = list(result.get(str(known), {}).get(name, {}).values())
        cells = [", ".join(f"{row[f'rmse_{n}']:.3f}" for row in rows) for n in spirals.OBSERVATIONS]
        if rows:
            size = f"{rows[0]['parameters']:,}"
            print(f"| {known} points | {name} | {size} | {' | '.join(cells)} |")
    file = result["exported"]
    cells = [f"{file[f'rmse_{n}']:.3f}" for n in spirals.OBSERVATIONS]
    print(f"| | latent ODE, shipped, as a file at 1e-2 | | {' | '.join(cells)} |")
    print(f"\n{file['solver']}, {file['nfe']} evaluations. {file['promise']}")
    print("ms by queries:", {n: round(t, 2) for n, t in file["milliseconds"].items()})


@torch.no_grad()
def figure(model: LatentOde, rnn: GapRnn) -> None:
    """Three trajectories with 30 observations: what was seen, the truth, and both predictions."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = spirals.draw(6, spirals.TEST)
    seen = spirals.observe(drawn, torch.full((6,), 30), torch.Generator().manual_seed(5))
    start, _ = model.recognition(*seen)
    path = model.trajectories(start, spirals.TIMES)
    ahead = rnn.continued(*seen, spirals.TIMES[spirals.POINTS :])
    plot, axes = plt.subplots(1, 3, figsize=(11, 3.9))
    for axis, i in zip(axes, (1, 2, 3), strict=True):
        n = int(seen.mask[i].sum())
        first, second = drawn.true[i, : spirals.POINTS], drawn.true[i, spirals.POINTS :]
        axis.plot(*first.T, color="0.6", lw=1, label="truth")
        axis.plot(*second.T, color="0.6", lw=1, ls="--", label="truth, to be predicted")
        axis.scatter(*seen.values[i, :n].T, s=12, color="0.2", label="30 observations", zorder=3)
        axis.plot(*path[i].T, color=INK["latent ODE"], lw=2, label="latent ODE")
        axis.plot(*ahead[i].T, color=INK["RNN"], lw=2, label="RNN")
        axis.set(aspect="equal", xticks=[], yticks=[])
    handles, labels = axes[0].get_legend_handles_labels()
    plot.legend(handles, labels, loc="lower center", ncols=5, frameon=False)
    plot.tight_layout(rect=(0, 0.07, 1, 1))
    plot.savefig(FIGURE, dpi=100)
    plt.close(plot)


if __name__ == "__main__":
    main()
