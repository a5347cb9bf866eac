"""Distilled plans: after unrolling, every evaluation of the field owns its biases.

The weights stay frozen and are stored once, and the file has the same operators. Fitting the biases
is light distillation of the model to its own tight solve, no longer a solver: nothing is known
about its error beyond the inputs it was fitted to, so that it is a category of its own, off unless
asked for, with the certificate as its only promise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from odedeploy.frontends.evaluation import TorchEvaluator
from odedeploy.graph import Site
from odedeploy.program import Constants, Plan, SolvePlan
from odedeploy.search.learned import Families
from odedeploy.search.objective import Judges, descend
from odedeploy.search.study import OutOfTime

NAME = "distilled"

PULL = 1e-3
"""Weight of Σ (β − β₀)² over all evaluations' biases beside the logarithm of the error."""

SHARE = 0.6
"""Part of the closures that fit the mean error; the others fit the tail."""


def distil(
    evaluator: TorchEvaluator,
    sites: Sequence[Site],
    start: Plan,
    judged: Judges,
    closures: int,
    coefficients: bool = True,
    pull: float = PULL,
    spent: Callable[[], None] = lambda: None,
) -> Plan:
    """``start`` with biases of each evaluation's own, fitted on fit and chosen on validate.

    With ``coefficients`` the method's coefficients and times, decoupled from its stages, are
    fitted along; the weights of an output still sum to its time. ``pull`` holds the biases near
    the trained ones. ``spent`` is called before each evaluation of the loss and may raise OutOfTime
    to end the fit with what it has. Kept solves stay as they are. Returns the better of ``start``
    and what was found, by the tail of the error on validate.
    """
    families = Families(sites, start, order=1, decoupled=True) if coefficients else None
    biases = [
        _Biases(evaluator, site, solve)
        for site, solve in zip(sites, start.solves, strict=True)
    ]
    parameters = [p for b in biases for p in b.parameters]
    if not parameters:
        return start
    parameters += families.parameters if families else []

    def plan() -> Plan:
        base = families.plan() if families else start
        return Plan(tuple(b.owning(s) for b, s in zip(biases, base.solves, strict=True)))

    def penalty() -> Tensor:
        held = pull * torch.stack([b.distance() for b in biases]).sum()
        return held + families.excess().square().sum() if families else held

    with suppress(OutOfTime, KeyboardInterrupt):
        for power, share in ((2.0, SHARE), (8.0, 1 - SHARE)):
            descend(parameters, plan, judged, round(share * closures), power, penalty, spent)
    if judged.validate.tail(plan()) >= judged.validate.tail(start):
        return start
    base = families.frozen() if families else start
    return Plan(tuple(b.frozen(s) for b, s in zip(biases, base.solves, strict=True)))


class _Biases:
    """The biases of every evaluation of one solve, as departures from the trained ones."""

    def __init__(self, evaluator: TorchEvaluator, site: Site, solve: SolvePlan) -> None:
        named = dict(evaluator.model.named_parameters())
        own = solve.constants or (Constants({}),) * solve.program.evaluations
        names = site.constants if site.kept is None else ()
        self._trained = {name: named[name].detach().double() for name in names}
        self._departures = [
            {name: self._begin(name, constants) for name in names} for constants in own
        ]

    def _begin(self, name: str, constants: Mapping[str, np.ndarray]) -> Tensor:
        begin = torch.zeros_like(self._trained[name])
        if name in constants:
            begin = torch.from_numpy(constants[name].copy()).double() - self._trained[name]
        return begin.requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        return [d for each in self._departures for d in each.values()]

    def distance(self) -> Tensor:
        """Σ (β − β₀)², 0-d."""
        squares = [d.square().sum() for d in self.parameters]
        return torch.stack(squares).sum() if squares else torch.zeros((), dtype=torch.float64)

    def owning(self, solve: SolvePlan) -> SolvePlan:
        """``solve`` with the biases as tensors, gradients alive."""
        if not self._trained:
            return solve
        values = [{n: self._trained[n] + d for n, d in each.items()} for each in self._departures]
        return replace(solve, constants=cast("tuple[Constants, ...]", tuple(values)))

    def frozen(self, solve: SolvePlan) -> SolvePlan:
        """``solve`` with the biases as plain data."""
        if not self._trained:
            return solve
        values = [
            Constants({
                n: (self._trained[n] + d).detach().numpy().astype(np.float32)
                for n, d in each.items()
            })
            for each in self._departures
        ]  # fmt: skip
        return replace(solve, solver=NAME, constants=tuple(values))
