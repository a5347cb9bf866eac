"""What is examined, and what is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from odedeploy.frontends.evaluation import TorchEvaluator
from odedeploy.graph import Inputs, Site
from odedeploy.grid import Grid
from odedeploy.program import Plan, solve_plan
from odedeploy.reference import Reference, take
from odedeploy.solvers import find


@dataclass(frozen=True)
class Subject:
    """A live model with the inputs it is examined on, ``count`` of them.

    ``solution`` is the tight solve of every site, fixed-step calls among them; None when there is
    none, and ``failure`` says why.
    """

    evaluator: TorchEvaluator
    sites: tuple[Site, ...]
    inputs: Inputs
    count: int
    tol: float
    solution: Reference | None = None
    failure: str = ""

    @property
    def odes(self) -> tuple[Site, ...]:
        """The sites with every call taken as an ODE."""
        return tuple(replace(site, kept=None) for site in self.sites)

    def solved(self, solution: Reference) -> Subject:
        return replace(self, solution=solution)

    def unsolved(self, failure: str) -> Subject:
        return replace(self, failure=failure)

    def few(self, count: int) -> Inputs:
        """The first ``count`` inputs, or all there are."""
        rows = np.arange(min(count, self.count))
        return take(self.inputs, rows, self.evaluator.static)

    def plan(self, solver: str, steps: int) -> Plan:
        """``solver`` in ``steps`` steps, or one an output interval, at every site."""
        return Plan(
            tuple(
                solve_plan(site.name, find(solver), Grid.through(site.times, steps))
                for site in self.sites
            )
        )


@dataclass(frozen=True)
class Finding:
    """Outcome of one check: ``good``, ``note``, ``bad`` or ``unknown``, in words and numbers."""

    name: str
    outcome: str
    words: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Check:
    """The verdict on a model, what follows from it, and what it rests on.

    ``verdict`` is a key of ``VERDICTS``, ``target`` what an export should answer to: ``solution``,
    the exact solution of the ODE, or ``map``, the solve as written.
    """

    verdict: str
    words: str
    target: str
    samples: int
    tol: float
    findings: Sequence[Finding]

    @property
    def genuine(self) -> bool:
        return self.verdict == "genuine"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        data = asdict(self)
        data["findings"] = {finding.pop("name"): finding for finding in data["findings"]}
        return data
