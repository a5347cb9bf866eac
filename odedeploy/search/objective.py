"""What a fit minimises: the error of a plan as a function of its numbers, and the descent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from odedeploy.frontends.evaluation import Answers, TorchEvaluator
from odedeploy.metrics import Margins
from odedeploy.program import Plan
from odedeploy.reference import Reference
from odedeploy.search.splits import Split
from odedeploy.tolerance import floor_of

STATES = 0.1
"""Weight of the final states beside the outputs in the logarithmic loss."""

TAIL = 8.0
"""Power of the mean that stands for the largest errors, which a promise is about."""

PATIENCE = 2
"""Validations without a better one after which a descent ends."""

VALIDATE = 10
"""L-BFGS iterations between two validations."""

Forward = Callable[[Plan], Answers]


class Objective:
    """The error of plans on the inputs of one split, differentiable.

    It is the relative error, or the share of the decision margins for a metric of decisions.
    ``forward`` runs them; ``rows`` are their places in the reference. Outputs that carry no
    gradient, or an error that is of states alone (``states_only``), leave the states as the target.
    """

    def __init__(
        self, forward: Forward, reference: Reference, rows: np.ndarray, states_only: bool = False
    ) -> None:
        self._forward, self._states_only = forward, states_only
        outputs = {
            name: array[rows]
            for name, array in reference.outcome.outputs.items()
            if np.issubdtype(array.dtype, np.floating)
        }
        states = {name: array[rows] for name, array in reference.outcome.states.items()}
        self._outputs = {k: _target(a, reference.metric.margins(a)) for k, a in outputs.items()}
        self._states = {k: _Target(a, 1e-12) for k, a in states.items()}

    def __call__(self, plan: Plan, power: float) -> Tensor:
        """log of the ``power`` mean of the error, squared, beside that of the states, 0-d."""
        found = [w * (_squares(r).pow(power / 2).mean() + 1e-300).log() * (2 / power)
                 for w, r in self.residuals(plan)]  # fmt: skip
        return torch.stack(found).sum()

    def tail(self, plan: Plan) -> float:
        """The ``TAIL`` mean of the error, infinite where a solve leaves the finite numbers."""
        with torch.no_grad():
            _, residuals = self.residuals(plan)[0]
            value = float(_squares(residuals).pow(TAIL / 2).mean()) ** (1 / TAIL)
        return value if np.isfinite(value) else np.inf

    def residuals(self, plan: Plan) -> list[tuple[float, Tensor]]:
        """Weight in the loss and residuals (rows, entries), first of outputs, then of states.

        A row's squares sum to its squared error.
        """
        outputs, states = self._forward(plan)
        lost = torch.is_grad_enabled() and not any(y.requires_grad for y in outputs.values())
        self._states_only = self._states_only or lost
        named = {} if self._states_only else self._outputs
        kinds = [
            torch.cat([target(found[name]) for name, target in targets.items()], dim=1)
            for targets, found in ((named, outputs), (self._states, states))
            if targets
        ]
        if not kinds:
            raise ValueError("nothing to fit")
        return list(zip((1.0, STATES), kinds, strict=False))


class _Target:
    """Differences from the truth in units of its norm, (rows, entries)."""

    def __init__(self, array: np.ndarray, floor: float) -> None:
        self._truth = _rows(torch.from_numpy(np.ascontiguousarray(array)))
        self._scale = self._truth.norm(dim=1, keepdim=True).clamp(min=floor)

    def __call__(self, found: Tensor) -> Tensor:
        missed: Tensor = (_rows(found) - self._truth) / self._scale
        return missed


class _Decisions:
    """Shares of the margins that scores use up, (rows, classes and places)."""

    def __init__(self, array: np.ndarray, margins: Margins) -> None:
        self._truth = torch.from_numpy(np.ascontiguousarray(array)).double()
        self._best, self._widths = torch.from_numpy(margins.best), torch.from_numpy(margins.widths)

    def __call__(self, found: Tensor) -> Tensor:
        moved = found.double() - self._truth
        used: Tensor = (moved - moved.gather(1, self._best)) / self._widths
        return used.flatten(1)


def _rows(answers: Tensor) -> Tensor:
    """Float64 (rows, …) as (rows, values); one number an input is one value."""
    return answers.double().reshape(len(answers), -1)


def _target(array: np.ndarray, margins: Margins | None) -> _Target | _Decisions:
    return _Target(array, floor_of(array)) if margins is None else _Decisions(array, margins)


def _squares(residuals: Tensor) -> Tensor:
    return residuals.square().sum(1)


@dataclass(frozen=True)
class Judges:
    """The objective of fit and that of validate."""

    fit: Objective
    validate: Objective


@contextmanager
def judges(
    evaluator: TorchEvaluator,
    fit: Split,
    validate: Split,
    reference: Reference,
    states_only: bool = False,
) -> Iterator[Judges]:
    """Objectives on both splits, whose forwards up to the first solve are computed once."""
    with evaluator.differentiable(fit.inputs) as one, evaluator.differentiable(
        validate.inputs
    ) as other:
        yield Judges(
            Objective(one, reference, fit.rows, states_only),
            Objective(other, reference, validate.rows, states_only),
        )


class _Lost(Exception):
    """A line search that left the finite numbers."""


def _refuse_lost(parameters: Sequence[Tensor]) -> None:
    if not all(bool(torch.isfinite(p).all()) for p in parameters):
        raise _Lost


def descend(
    parameters: Sequence[Tensor],
    plan: Callable[[], Plan],
    judges: Judges,
    closures: int,
    power: float = 2.0,
    penalty: Callable[[], Tensor] | None = None,
    spent: Callable[[], None] = lambda: None,
) -> float:
    """Fit ``parameters`` by L-BFGS and leave them at their best; the tail error on validate there.

    ``plan`` gives the plan of the parameters, gradients alive. Errors on validate are looked at
    every ``VALIDATE`` iterations, and the descent ends when ``PATIENCE`` looks bring nothing
    better or ``closures`` evaluations of the loss are spent. ``spent`` is called before each of
    them and may raise to end the search; the parameters are at their best then, too.
    """
    best, kept = judges.validate.tail(plan()), [p.detach().clone() for p in parameters]
    optimiser = torch.optim.LBFGS(
        list(parameters), max_iter=VALIDATE, max_eval=VALIDATE + 4, history_size=30,
        tolerance_grad=1e-9, tolerance_change=1e-10, line_search_fn="strong_wolfe",
    )  # fmt: skip
    done = stale = 0

    def closure() -> Tensor:
        nonlocal done
        spent()
        _refuse_lost(parameters)
        done += 1
        optimiser.zero_grad()
        loss = judges.fit(plan(), power)
        if penalty is not None:
            loss = loss + penalty()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    try:
        while done < closures and stale < PATIENCE:
            before = done
            try:
                optimiser.step(closure)  # type: ignore[no-untyped-call]
                _refuse_lost(parameters)
            except _Lost:
                break
            value = judges.validate.tail(plan())
            stale = 0 if value < 0.99 * best else stale + 1
            if value < best:
                best, kept = value, [p.detach().clone() for p in parameters]
            if done - before < 2:
                break
    finally:
        with torch.no_grad():
            for parameter, value_ in zip(parameters, kept, strict=True):
                parameter.copy_(value_)
    return best
