"""What the planner is measured on: a model, its inputs split by a seed, and their reference."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import planner_fields
import torch
from torch import nn

from odedeploy import api, metrics, models
from odedeploy.frontends import live
from odedeploy.frontends.evaluation import TorchEvaluator
from odedeploy.graph import Inputs, Outcome, Site
from odedeploy.reference import Reference, silent, solve, take
from odedeploy.search import Splits, split
from odedeploy.search.layout import Layout
from odedeploy.search.stages import Stages
from odedeploy.search.study import Study
from odedeploy.spec import ExportSpec

CACHE = Path("runs") / "planner"
"""Reference solves, which all seeds of a model share."""

UNHURRIED = 1e6
"""Seconds of a search: its fits end by themselves, however busy the machine."""

CASES: Mapping[str, Callable[[], tuple[nn.Module, Inputs]]] = {
    "mnist-odenet": lambda: models.build("mnist-odenet"),
    "flow-digits": lambda: models.build("flow-digits"),
    "smooth": planner_fields.smooth,
    "stiff": planner_fields.stiff,
}


@dataclass(frozen=True)
class Case:
    """One model and seed. ``weights`` identifies the model, ``inputs`` how many there are."""

    name: str
    weights: str
    inputs: int
    seed: int
    model: nn.Module
    evaluator: TorchEvaluator
    sites: tuple[Site, ...]
    spec: ExportSpec
    splits: Splits
    reference: Reference

    @cached_property
    def study(self) -> Study:
        """What the search measures by. The clock does not end a fit."""
        return Study(self.evaluator, Layout.even(self.sites), self.spec, self.splits,
                     self.reference, silent)  # fmt: skip

    @cached_property
    def search(self) -> Stages:
        """The product's own search, asked for one number of evaluations at a time."""
        return Stages(self.study, None)


def open_case(name: str, seed: int, count: int, tol: float) -> Case:
    """The case, its reference solved for ``tol`` or read from ``CACHE``."""
    model, given = CASES[name]()
    inputs = take(given, np.arange(count))
    graph = api.capture(model, inputs)
    evaluator = live(graph)
    weights = _digest(model)
    whole = _reference(evaluator, graph.sites, inputs, tol, f"{name}-{weights}-{count}-{tol:g}")
    spec = ExportSpec(tol=tol, samples=count, seed=seed, budget=UNHURRIED, allow_distilled=True)
    order = split({"row": np.arange(count)}, spec).inputs["row"]
    outcome = Outcome(
        {key: array[order] for key, array in whole.outcome.outputs.items()},
        {key: array[order] for key, array in whole.outcome.states.items()},
    )
    return Case(name, weights, count, seed, model, evaluator, tuple(graph.sites), spec,
                split(inputs, spec), replace(whole, outcome=outcome))  # fmt: skip


def told(stage: str, done: int, total: int) -> None:
    print(f"{stage}: {done} of {total}", flush=True)


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for parameter in model.state_dict().values():
        digest.update(parameter.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _reference(
    evaluator: TorchEvaluator, sites: tuple[Site, ...], inputs: Inputs, tol: float, name: str
) -> Reference:
    path = CACHE / f"{name}.pt"
    if path.exists():
        found = torch.load(path, weights_only=True)
        outputs, states = (
            {key: tensor.numpy() for key, tensor in found[part].items()}
            for part in ("outputs", "states")
        )
        return Reference(Outcome(outputs, states), found["self_check"], found["method"],
                         found["evaluations"], metrics.of(ExportSpec(tol=tol)))  # fmt: skip
    print(f"{name}: reference solve", flush=True)
    solved = solve(evaluator, sites, inputs, tol, told)
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {
        part: {key: torch.from_numpy(np.ascontiguousarray(y)) for key, y in content.items()}
        for part, content in (
            ("outputs", solved.outcome.outputs), ("states", solved.outcome.states)
        )
    }  # fmt: skip
    torch.save({**parts, "self_check": solved.self_check, "method": solved.method,
                "evaluations": solved.evaluations}, path)  # fmt: skip
    print(f"{name}: {solved.method}, {solved.evaluations} evaluations, self-check "
          f"{solved.self_check:.1e}", flush=True)  # fmt: skip
    return solved

