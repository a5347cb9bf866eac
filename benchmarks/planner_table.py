"""The planner's table and plot, from the cells that planner.py has measured.

    python benchmarks/planner_table.py [FILE.jsonl]

Writes a table in Markdown, the same as JSON, and a plot, beside the file.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Line = dict[str, Any]

TOLS = (1e-1, 1e-2, 1e-3)
EQUAL = (4, 6, 8, 12)
QUANTILES = ("q50", "q95", "q99", "max")

COLUMNS: dict[str, tuple[str, ...]] = {
    "adaptive dopri5": ("adaptive",),
    "uniform RK4": ("rk4",),
    "best classical": ("classical",),
    "+ grid": ("classical", "grid"),
    "+ learned": ("classical", "grid", "learned"),
    "+ distilled": ("classical", "grid", "learned", "distilled"),
}
"""A column takes, at each number of evaluations, the best of its rungs on fit and validate."""


def column(lines: Iterable[Line], name: str) -> list[Line]:
    """The plans of a column by evaluations, of one model and seed; empty when its last rung is."""
    rungs = COLUMNS[name]
    own = [line for line in lines if line["rung"] in rungs]
    if not any(line["rung"] == rungs[-1] for line in own):
        return []
    best: dict[float, Line] = {}
    for line in sorted(own, key=lambda line: line.get("ranked", 0.0)):
        best.setdefault(line["nfe"], line)
    return [best[nfe] for nfe in sorted(best)]


def needed(points: Sequence[Line], tol: float) -> float | None:
    """Fewest evaluations at which the 0.99 quantile keeps ``tol``; None when none measured does."""
    return next((line["nfe"] for line in points if line["q99"] <= tol), None)


def summarise(lines: Sequence[Line]) -> dict[str, Any]:
    """Evaluations needed and errors at equal evaluations: median, least and most over the seeds."""
    models = list(dict.fromkeys(line["model"] for line in lines))
    needs, equal = [], []
    for model in models:
        latest = [line for line in lines if line["model"] == model][-1]
        key = {name: latest[name] for name in ("model", "weights", "inputs")}
        same = [line for line in lines if key.items() <= line.items()]
        seeds = sorted({line["seed"] for line in same})
        curves = {
            (name, seed): column((x for x in same if x["seed"] == seed), name)
            for name in COLUMNS for seed in seeds
        }  # fmt: skip
        for tol in TOLS:
            row: dict[str, Any] = {"model": model, "tol": tol}
            for name in COLUMNS:
                found = [needed(curves[name, seed], tol) for seed in seeds if curves[name, seed]]
                row[name] = _over(found)
            needs.append(row)
        for nfe in EQUAL:
            for name in COLUMNS:
                points = [p for seed in seeds for p in curves[name, seed] if p["nfe"] == nfe]
                if points:
                    errors = {q: _over([p[q] for p in points]) for q in QUANTILES}
                    solvers = sorted({p["solver"] for p in points})
                    equal.append({"model": model, "nfe": nfe, "column": name,
                                  "solvers": solvers, **errors})  # fmt: skip
    return {"needed": needs, "equal": equal}


def _over(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Median and range over the seeds that reached a value, and how many were asked."""
    reached = [value for value in values if value is not None]
    if not values:
        return None
    if len(reached) < len(values):
        return {"median": None, "seeds": len(values), "reached": len(reached)}
    return {"median": float(np.median(reached)), "least": min(reached), "most": max(reached),
            "seeds": len(values)}  # fmt: skip


def markdown(found: dict[str, Any]) -> str:
    """Both tables."""
    names = list(COLUMNS)
    ratios = ("learned ÷ classical", "learned ÷ adaptive", "distilled ÷ classical",
              "distilled ÷ adaptive")  # fmt: skip
    text = ["Evaluations needed for a 0.99 quantile within the tolerance, median over the seeds "
            "(range where they differ); — not measured, ✗ by none of the plans measured so far (in "
            "brackets: the splits in which one does).\n"]  # fmt: skip
    text += _head(("model", "tolerance", *names, *ratios))
    for row in found["needed"]:
        pairs = [(row[f"+ {over.split()[0]}"], row[under]) for over, under in (
            ("learned", "best classical"), ("learned", "adaptive dopri5"),
            ("distilled", "best classical"), ("distilled", "adaptive dopri5"))]  # fmt: skip
        text.append(_row((row["model"], f"{row['tol']:g}", *(_count(row[name]) for name in names),
                          *(_ratio(a, b) for a, b in pairs))))  # fmt: skip
    text.append("\nError of single inputs at equal evaluations, median over the seeds.\n")
    text += _head(("model", "evaluations", "rungs", "solver", *QUANTILES))
    for row in found["equal"]:
        errors = (f"{row[q]['median']:.1e}" for q in QUANTILES)
        text.append(_row((row["model"], row["nfe"], row["column"], ", ".join(row["solvers"]),
                          *errors)))  # fmt: skip
    return "\n".join(text) + "\n"


def _head(cells: Sequence[object]) -> list[str]:
    return [_row(cells), _row(["---"] * len(cells))]


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _count(value: dict[str, Any] | None) -> str:
    if value is None:
        return "—"
    if value["median"] is None:
        return "✗" if not value["reached"] else f"✗ ({value['reached']} of {value['seeds']})"
    text = f"{value['median']:.3g}"
    same = value["least"] == value["most"]
    return text if same else f"{text} ({value['least']:.3g}–{value['most']:.3g})"


def _ratio(over: dict[str, Any] | None, under: dict[str, Any] | None) -> str:
    if not (over and under and over["median"] and under["median"]):
        return "—"
    return f"{over['median'] / under['median']:.2f}"


def plot(lines: Sequence[Line], path: Path) -> None:
    """Work–precision diagrams: the 0.99 quantile against evaluations, one panel a model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    models = list(dict.fromkeys(line["model"] for line in lines))
    figure, panels = plt.subplots(1, len(models), figsize=(4.2 * len(models), 3.8), squeeze=False)
    for axes, model in zip(panels[0], models, strict=True):
        weights = [line["weights"] for line in lines if line["model"] == model][-1]
        for i, name in enumerate(COLUMNS):
            values: dict[float, list[float]] = {}
            for seed in {line["seed"] for line in lines}:
                own = [x for x in lines if (x["model"], x["seed"], x["weights"])
                       == (model, seed, weights)]  # fmt: skip
                measured = {x["at"] for x in own if x["rung"] == COLUMNS[name][-1]}
                for p in (p for p in column(own, name) if p["at"] in measured):
                    place = p["at"] if name.startswith("adaptive") else p["nfe"]
                    values.setdefault(place, []).append((p["nfe"], p["q99"]))
            points = sorted(np.median(np.array(v), axis=0).tolist() for v in values.values())
            points = [(n, e) for n, e in points if math.isfinite(e) and e < 3]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", ms=3, lw=1.2, color=f"C{i}",
                          label=name)  # fmt: skip
        axes.set(title=model, xlabel="evaluations", xscale="log", yscale="log")
        axes.set_xticks([2, 4, 8, 16, 32], labels=["2", "4", "8", "16", "32"])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("error, 0.99 quantile of untouched inputs")
    panels[0, -1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write(lines: Sequence[Line], results: Path) -> None:
    """Print the tables; write them and the plot beside ``results``."""
    known = [line for line in lines if line["rung"]]
    if not known:
        return
    found = summarise(known)
    text = markdown(found)
    print(text)
    results.with_suffix(".md").write_text(text)
    results.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    plot(known, results.with_suffix(".png"))


if __name__ == "__main__":
    file = Path(*sys.argv[1:2]) if sys.argv[1:] else Path(__file__).parent / "results/planner.jsonl"
    write([json.loads(line) for line in file.read_text().splitlines()], file)
