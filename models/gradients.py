"""How good a gradient of the adjoint method is, and the loosest tolerances that are good enough."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import cast

import torch
from torch import Tensor, nn

from odedeploy.models.tasks import Batch, Solving, Task

LADDER = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
TIGHT = 1e-10
"""Tolerance of the reference, which is solved in float64. A tolerance is absolute too, and adjoints
of a mean over many samples are small."""


@dataclass(frozen=True)
class GradientError:
    """The gradient at two tolerances: its distance ‖g − g_ref‖ / ‖g_ref‖ from that of tight solves
    over all parameters, and the evaluations it took, forward and backward."""

    tolerance: float
    adjoint_tolerance: float
    error: float
    evaluations: int


def loosest(task: Task, model: nn.Module, batch: Batch, allowed: float) -> GradientError:
    """The cheapest of the loosest pairs of ``LADDER`` whose gradient errs by at most ``allowed``.

    Pairs are tried in the order of how many rungs both have been tightened together; where no
    pair is good enough it is the tightest. The model's own gradients and tolerances are kept.
    """
    exact = gradient(task, _precise(model), tuple(map(_double, batch)), TIGHT, TIGHT)[0]
    rungs = range(len(LADDER))
    for tightened in range(2 * len(LADDER) - 1):
        pairs = [(i, j) for i, j in product(rungs, rungs) if i + j == tightened]
        tried = [_judged(task, model, batch, exact, LADDER[i], LADDER[j]) for i, j in pairs]
        good = [each for each in tried if each.error <= allowed]
        if good:
            return min(good, key=lambda each: each.evaluations)
    return tried[-1]


def gradient(
    task: Task, model: nn.Module, batch: Batch, tolerance: float, adjoint_tolerance: float
) -> tuple[Tensor, int]:
    """Of the task's loss by all parameters, as one vector, and the evaluations that it took."""
    solving = cast(Solving, model)
    kept = solving.tolerance, solving.adjoint_tolerance
    solving.tolerance, solving.adjoint_tolerance = tolerance, adjoint_tolerance
    before = solving.evaluations
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            loss, _ = task.loss(model, batch)
            parts = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    finally:
        solving.tolerance, solving.adjoint_tolerance = kept
    filled = (
        torch.zeros_like(p) if part is None else part
        for p, part in zip(model.parameters(), parts, strict=True)
    )
    return torch.cat([part.flatten() for part in filled]), solving.evaluations - before


def _judged(
    task: Task, model: nn.Module, batch: Batch, exact: Tensor, forward: float, backward: float
) -> GradientError:
    try:
        found, evaluations = gradient(task, model, batch, forward, backward)
    except AssertionError:  # torchdiffeq asserts that step size and state stay finite
        return GradientError(forward, backward, float("inf"), 0)
    error = ((found.double() - exact).norm() / exact.norm()).item()
    return GradientError(forward, backward, error, evaluations)


def _precise(model: nn.Module) -> nn.Module:
    return deepcopy(model).double()


def _double(part: Tensor) -> Tensor:
    return part.double() if part.is_floating_point() else part
