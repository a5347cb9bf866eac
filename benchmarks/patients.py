"""``patients`` beside last values, straight lines in monthly bins and a GRU with time gaps.

The models are trained from several seeds by one recipe, the same for both; a run that was stopped
goes on where it was. Errors are on the next visits of the 78 held-out patients, in standard
deviations of the training patients.

    python benchmarks/patients.py --data DIR [--seeds 5] [--runs runs/patients]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from patients_baselines import GapGru, last_values, monthly_lines
from torch import Tensor, nn

from odedeploy.models import patients, pbcseq, training
from odedeploy.models.patients import PatientOde, Scale
from odedeploy.models.tasks import Batch

MODELS: dict[str, Callable[..., nn.Module]] = {"latent ODE": PatientOde, "GRU, time gaps": GapGru}
RULES: dict[str, Callable[[Scale, Batch], Tensor]] = {
    "last value carried forward": last_values,
    "line through monthly bins": monthly_lines,
    "line through monthly bins, 6 months at most": lambda scale, b: monthly_lines(scale, b, 6),
}
RESAMPLES = 2000
LAST, ASKED = date(1985, 1, 11), date(1985, 11, 16)
"""The two visits of the example; the record has days since enrolment, the years are made up."""

RESULTS = Path(__file__).parent / "results" / "patients.json"
FIGURE = Path(__file__).parent.parent / "docs" / "patients.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/patients"))
    asked = parser.parse_args()
    asked.runs.mkdir(parents=True, exist_ok=True)
    everybody = pbcseq.load(asked.data)
    held_out = pbcseq.following(everybody.part("held-out"))
    batch = patients.tensors(held_out)
    scale = patients.task(asked.data).model().scale
    assert isinstance(scale, Scale)
    truth, known = scale(batch[-2], batch[-1]), batch[-1]
    squares = {name: [(rule(scale, batch) - truth) * known] for name, rule in RULES.items()}
    for name, model in MODELS.items():
        squares[name] = []
        for seed in range(asked.seeds):
            task = patients.predict(model, patients.RECIPE, everybody)
            task = replace(task, recipe=replace(task.recipe, tolerances=())) if (
                model is GapGru) else task  # fmt: skip
            path = asked.runs / f"{model.__name__}-{seed}.ckpt"
            trained = training.run(task, path, seed=seed, device="cpu")
            with torch.no_grad():
                squares[name].append(patients.errors(trained, batch))
    result = summary({name: [e.square() for e in all] for name, all in squares.items()},
                     known, held_out.owner)  # fmt: skip
    report(result)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    figure(everybody)


def summary(
    squares: dict[str, list[Tensor]], known: Tensor, owner: np.ndarray
) -> dict[str, dict[str, Any]]:
    """RMSE by seed and by value; and against the latent ODE, resampling the patients."""
    ours = torch.stack(squares["latent ODE"]).mean(0)
    result = {}
    for name, seeds in squares.items():
        mean = torch.stack(seeds).mean(0)
        result[name] = {
            "rmse": [(s.sum() / known.sum()).sqrt().item() for s in seeds],
            "by_value": dict(zip(pbcseq.LABS, (mean.sum(0) / known.sum(0)).sqrt().tolist(),
                                 strict=True)),
            "more_than_ours": resampled(mean.sum(1), ours.sum(1), known.sum(1), owner),
        }  # fmt: skip
    return result


def resampled(theirs: Tensor, ours: Tensor, known: Tensor, owner: np.ndarray) -> list[float]:
    """Quantiles 0.025, 0.5, 0.975 of RMSE less ours, over patients drawn with replacement."""
    each = np.stack([np.bincount(owner, x.numpy()) for x in (theirs, ours, known)], 1)
    rows = np.random.default_rng(0).integers(0, len(each), (RESAMPLES, len(each)))
    a, b, n = np.moveaxis(each[rows].sum(1), 1, 0)
    return np.quantile(np.sqrt(a / n) - np.sqrt(b / n), (0.025, 0.5, 0.975)).tolist()


def report(result: dict[str, dict[str, Any]]) -> None:
    print(f"| | RMSE | more than the latent ODE | {' | '.join(pbcseq.LABS)} |")
    print("|---|---|---|" + "---|" * len(pbcseq.LABS))
    for name, row in result.items():
        found = np.array(row["rmse"])
        rmse = f"{found.mean():.3f}" + (f" ± {found.std(ddof=1):.3f}" if len(found) > 1 else "")
        low, middle, high = row["more_than_ours"]
        more = "–" if name == "latent ODE" else f"{middle:+.3f} ({low:+.3f} … {high:+.3f})"
        cells = " | ".join(f"{x:.2f}" for x in row["by_value"].values())
        print(f"| {name} | {rmse} | {more} | {cells} |")


@torch.no_grad()
def figure(everybody: pbcseq.Patients) -> None:
    """A held-out patient seen on 11 January and again on 16 November, 309 days later.

    The gap nearest to 309 days among held-out patients with four visits before it.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.dates as mdates
    import matplotlib.pyplot as plt

    gap = (ASKED - LAST).days
    part = everybody.part("held-out")
    pairs = pbcseq.following(part)
    days = pairs.date - pairs.day.max(1)
    visits = pairs.observed.max(2).sum(1)
    row = int(np.argmin(np.abs(days - gap) + 1000 * (visits < 4)))
    model, _ = patients.build()
    asked = np.linspace(0, gap, 60, dtype=np.float32)
    last = pairs.day[row].max()
    given = {name: np.repeat(array[row : row + 1], len(asked), 0)
             for name, array in pairs.inputs.items()}  # fmt: skip
    given["date"] = last + asked
    found = model(*(torch.from_numpy(array) for array in given.values()))
    plot, axes = plt.subplots(1, 3, figsize=(11, 3.4))
    when = [LAST + timedelta(days=float(d)) for d in asked]
    for axis, (name, unit) in zip(
        axes, (("bili", "mg/dl"), ("albumin", "g/dl"), ("platelet", "1000/ml")), strict=True
    ):
        lab = pbcseq.LABS.index(name)
        seen = pairs.observed[row, :, lab] > 0
        before = [LAST + timedelta(days=float(d - last)) for d in pairs.day[row, seen]]
        measured = pairs.values[row, seen, lab]
        axis.plot(before, measured, "o", color="0.2", label="visits before")
        axis.plot(when, found[name].numpy(), color="#0b6e99", lw=2, label="latent ODE")
        axis.hlines(measured[-1], before[-1], when[-1], color="0.6", ls=":", label="last value")
        if pairs.known[row, lab]:
            axis.plot(LAST + timedelta(days=float(days[row])), pairs.target[row, lab], "o",
                      mfc="white", mec="#c2571a", mew=2, label="the next visit")  # fmt: skip
        axis.axvline(LAST, color="0.85", zorder=0)
        axis.axvline(ASKED, color="0.85", zorder=0)
        axis.set_title(f"{name}, {unit}", loc="left", fontsize=10)
        axis.set_ylim(0.8 * axis.get_ylim()[0], 1.1 * axis.get_ylim()[1])
        axis.xaxis.set_major_locator(mdates.YearLocator())
        axis.xaxis.set_major_formatter(mdates.DateFormatter("%Y"))
    handles, labels = axes[0].get_legend_handles_labels()
    plot.legend(handles, labels, loc="lower center", ncols=4, frameon=False)
    plot.tight_layout(rect=(0, 0.09, 1, 1))
    plot.savefig(FIGURE, dpi=100)
    plt.close(plot)
    print(f"Patient {part.number[pairs.owner[row]]}: {days[row]:.0f} days after visit "
          f"{visits[row]:.0f}.")  # fmt: skip


if __name__ == "__main__":
    main()
