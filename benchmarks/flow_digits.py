"""flow-digits' artefacts on 1,000 draws: trajectory error, and class accuracy of the samples.

The classifier digit-classifier, which shares nothing with the generator but the training digits,
reads the samples of each artefact and those of the model's own adaptive solve.

    python benchmarks/flow_digits.py [--inputs 1024] [--budget 120]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from planner_cases import Case, open_case
from planner_rungs import summary
from torch import nn

import odedeploy
from odedeploy import api, metrics
from odedeploy.delivery import deliver
from odedeploy.formats import find
from odedeploy.graph import OdeGraph
from odedeploy.grid import Grid
from odedeploy.models import classification, digit_classifier, flow_digits
from odedeploy.planned import Planned
from odedeploy.program import Plan, solve_plan
from odedeploy.search import search
from odedeploy.solvers import find as find_solver
from odedeploy.tolerance import worst_error

TOLS = (1e-3, 1e-2, 1e-1)
COARSE = (8, 4, 2, 1)
"""Evaluations of Euler's method, which promises nothing."""

ADAPTIVE = "adaptive"

RESULTS = Path(__file__).parent / "results"
FIGURE = Path(__file__).parent.parent / "docs" / "flow-digits.png"

Images = np.ndarray
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=1024)
    parser.add_argument("--budget", type=float, default=120, help="seconds of each search")
    asked = parser.parse_args()
    case = open_case("flow-digits", 0, asked.inputs, min(TOLS))
    case = replace(case, spec=replace(case.spec, budget=asked.budget))
    draws = flow_digits.draws(flow_digits.JUDGED, seed=1)
    graph = api.capture(case.model, case.splits.inputs)
    found = {ADAPTIVE: (own(case.model, draws), {"tolerance": case.model.tolerance})}
    with tempfile.TemporaryDirectory() as folder:
        for tol in TOLS:
            found[f"tol {tol:g}"] = exported(case, graph, tol, draws, Path(folder) / "flow.onnx")
        for n in COARSE:
            found[f"Euler {n}"] = euler(graph, n, draws, Path(folder) / "euler.onnx")
    truth = next(iter(found.values()))[0]
    rows = [{"file": name, **facts, **judged(images, truth, draws["label"])}
            for name, (images, facts) in found.items()]  # fmt: skip
    report(rows)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "flow_digits.json").write_text(json.dumps(rows, indent=1) + "\n")
    figure({name: images for name, (images, _) in found.items()}, draws["label"])


def own(model: nn.Module, draws: dict[str, np.ndarray]) -> Images:
    """The model's own solve in PyTorch, at its own tolerance."""
    noise, label = (torch.from_numpy(draws[name]) for name in ("noise", "label"))
    with torch.no_grad():
        pairs = zip(noise.split(100), label.split(100), strict=True)
        return np.concatenate([model(*pair).numpy() for pair in pairs])


def exported(
    case: Case, graph: OdeGraph, tol: float, draws: dict[str, np.ndarray], path: Path
) -> tuple[Images, Row]:
    """The artefact that keeps ``tol``, in onnxruntime."""
    spec = replace(case.spec, tol=tol, allow_distilled=False)
    reference = replace(case.reference, metric=metrics.of(spec))
    found = search(case.evaluator, case.sites, spec, case.splits, reference)
    manifest = deliver(graph, Planned(spec, case.splits, reference, found, {}), path)
    facts = {"solver": manifest.plan["solver"], "nfe": manifest.plan["nfe"],
             "bound": manifest.error.bound}  # fmt: skip
    return sampled(path, draws), facts


def euler(
    graph: OdeGraph, n: int, draws: dict[str, np.ndarray], path: Path
) -> tuple[Images, Row]:
    """Euler's method in ``n`` steps, in onnxruntime."""
    method = find_solver("euler")
    plan = Plan((solve_plan(graph.sites[0].name, method, Grid.uniform(0, 1, n)),))
    find("onnx").build(graph, plan, "unrolled").write(path, {})
    return sampled(path, draws), {"solver": "euler", "nfe": n}


def sampled(path: Path, draws: dict[str, np.ndarray]) -> Images:
    session = odedeploy.load(path, threads=1)
    parts = []
    for first in range(0, len(draws["label"]), 100):
        part = {name: array[first : first + 100] for name, array in draws.items()}
        parts += session.run(part, check=False).values()
    return np.concatenate(parts)


def judged(images: Images, truth: Images, labels: np.ndarray) -> Row:
    """Class accuracy, agreement of the classes with those of ``truth``, and trajectory errors."""
    read, meant = (
        classification.predict(digit_classifier.build(), torch.from_numpy(x)).numpy()
        for x in (images, truth)
    )
    errors = worst_error({"images": images}, {"images": truth}, {"images": 1e-6})
    return {"class_accuracy": float(np.mean(read == labels)),
            "same_class": float(np.mean(read == meant)), **summary(errors)}  # fmt: skip


def report(rows: list[Row]) -> None:
    print("| file | solver | NFE | certified bound | error, median | error, q99 | same class "
          "| class accuracy |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        bound = f"{row['bound']:.1e}" if "bound" in row else "–"
        print(f"| {row['file']} | {row.get('solver', 'dopri5')} | {row.get('nfe', '–')} | {bound} "
              f"| {row['q50']:.1e} | {row['q99']:.1e} | {row['same_class']:.1%} "
              f"| {row['class_accuracy']:.1%} |")  # fmt: skip


def figure(images: dict[str, Images], labels: np.ndarray) -> None:
    """Two draws of each digit a row, the same in every row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = np.concatenate([np.flatnonzero(labels == digit)[:2] for digit in range(10)])
    plot, axes = plt.subplots(len(images), 1, figsize=(10, 0.72 * len(images)))
    for row, (name, drawn) in zip(axes, images.items(), strict=True):
        row.imshow(np.concatenate(drawn[shown, 0].clip(0, 1), axis=1), cmap="gray")
        row.set(xticks=[], yticks=[])
        row.set_ylabel(name, rotation=0, ha="right", va="center")
    plot.tight_layout(pad=0.3)
    plot.savefig(FIGURE, dpi=80)
    plt.close(plot)


if __name__ == "__main__":
    main()
