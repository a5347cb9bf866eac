"""``latent-ode-spirals`` beside a recurrent network of its size: predictive RMSE, and a picture.

Both are trained here by their recipes from several seeds; a run that was stopped goes on where it
was. The latent ODE is measured by its exported file too, and the cost of a query is timed.

    python benchmarks/latent.py [--seeds 3] [--runs runs/latent]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from latent_rnn import GapRnn
from latent_rnn import task as rnn_task
from torch import nn

import odedeploy
from odedeploy import api
from odedeploy.models import latent_ode, spirals, training
from odedeploy.models.latent_ode import LatentOde
from odedeploy.spec import ExportSpec

PAPER = {"RNN": (0.394, 0.320, 0.181), "latent ODE": (0.164, 0.150, 0.135)}
"""Table 2 of the paper, as recalled."""

QUERIES = (1, 10, 100)
RESULTS = Path(__file__).parent / "results" / "latent.json"
FIGURE = Path(__file__).parent.parent / "docs" / "latent-ode.png"
INK = {"latent ODE": "#0b6e99", "RNN": "#c2571a"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/latent"))
    asked = parser.parse_args()
    asked.runs.mkdir(parents=True, exist_ok=True)
    tasks = {"latent ODE": latent_ode.task(), "RNN": rnn_task()}
    found: dict[str, list[dict[str, float]]] = {}
    trained: dict[str, nn.Module] = {}
    for name, task in tasks.items():
        for seed in range(asked.seeds):
            checkpoint = asked.runs / f"{task.name}-{seed}.ckpt"
            model = training.run(task, checkpoint, seed=seed, device="cpu")
            found.setdefault(name, []).append(task.test(model))
            trained.setdefault(name, model)
    result: dict[str, Any] = {
        name: {"parameters": sum(p.numel() for p in trained[name].parameters()), "seeds": rows}
        for name, rows in found.items()
    }
    shipped, _ = latent_ode.build()
    result["exported"] = exported(shipped)
    report(result)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    rnn = trained["RNN"]
    assert isinstance(rnn, GapRnn)
    figure(shipped, rnn)


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
    print("| | parameters | 30 of 100 | 50 of 100 | 100 of 100 |")
    print("|---|---|---|---|---|")
    for name, figures in PAPER.items():
        print(f"| {name}, the paper's | – | {' | '.join(f'{x:.3f}' for x in figures)} |")
    for name in PAPER:
        rows = result[name]["seeds"]
        cells = []
        for n in spirals.OBSERVATIONS:
            values = np.array([row[f"rmse_{n}"] for row in rows])
            cells.append(f"{values.mean():.3f} ± {values.std(ddof=1):.3f}")
        print(f"| {name} | {result[name]['parameters']:,} | {' | '.join(cells)} |")
    file = result["exported"]
    cells = [f"{file[f'rmse_{n}']:.3f}" for n in spirals.OBSERVATIONS]
    print(f"| latent ODE, shipped, as a file at 1e-2 | | {' | '.join(cells)} |")
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
