"""Levenberg–Marquardt on the few numbers of a solver, in forward mode.

A method of n stages has about n²/2 coefficients and its residuals thousands of entries, and the
coefficients are nearly dependent, as those of high-order quadrature are: a damped Gauss–Newton
step sees that, a gradient does not. The columns of the Jacobian are forward derivatives, one
run of the plan each.

Source: Nocedal and Wright, *Numerical Optimization*, 2nd edition, section 10.3; the damping is
Marquardt's, in units of the diagonal.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from odedeploy.program import Plan
from odedeploy.search.objective import Judges, Objective

with warnings.catch_warnings():  # the first dual tensor of a process loads scripted functions
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch._decomp.decompositions_for_jvp  # noqa: F401

DAMPING = 1e-4
"""Of the first step."""

EASIER, HARDER, TRIES = 0.2, 10.0, 8
"""Factors of the damping after a step that lowers the loss and one that does not, and how often
the latter is tried."""

SETTLED = 0.02
"""Decrease of the loss, a logarithm, below which a fit ends."""

Values = Sequence[Tensor]


def fit(
    parameters: Sequence[Tensor],
    plan: Callable[[Values], Plan],
    judges: Judges,
    steps: int,
    power: float = 2.0,
    excess: Callable[[Values], Tensor] | None = None,
    spent: Callable[[], None] = lambda: None,
) -> float:
    """Fit ``parameters`` in at most ``steps`` steps and leave them at their best on validate.

    ``plan`` is the plan of values in place of the parameters, and ``excess`` further residuals of
    them, (k,). Returns the tail error on validate. ``spent`` is called before every run of the
    plan and may raise to end the fit; the parameters are at their best then, too.

    Raises NotImplementedError when an operator of the model has no forward derivative.
    """
    values = [p.detach().clone() for p in parameters]
    best, kept = judges.validate.tail(plan(values)), values
    damping = DAMPING

    def loss(at: Values) -> float:
        spent()
        found = judges.fit(plan(at), power)
        return float(found if excess is None else found + excess(at).square().sum())

    try:
        with torch.no_grad():
            before = loss(values)
            for _ in range(steps):
                matrix, slope = _normal(values, plan, judges.fit, power, excess, spent)
                taken = _step(values, matrix, slope, damping, before, loss)
                if taken is None:
                    break
                values, after, damping = taken
                tail = judges.validate.tail(plan(values))
                if tail < best:
                    best, kept = tail, values
                if before - after < SETTLED:
                    break
                before = after
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
    return best


def _step(
    values: Values,
    matrix: Tensor,
    slope: Tensor,
    damping: float,
    before: float,
    loss: Callable[[Values], float],
) -> tuple[list[Tensor], float, float] | None:
    """New values, their loss and the next damping; None when no step lowers the loss."""
    diagonal = matrix.diagonal()
    floor = 1e-12 * float(diagonal.max()) + 1e-300
    for _ in range(TRIES):
        damped = matrix + damping * torch.diag(diagonal.clamp(min=floor))
        step, info = torch.linalg.solve_ex(damped, slope)
        moved = list(_split(_flat(values) - step, values))
        after = loss(moved) if int(info) == 0 and bool(torch.isfinite(step).all()) else torch.inf
        if after < before:
            return moved, after, damping * EASIER
        damping *= HARDER
    return None


def _normal(
    values: Values,
    plan: Callable[[Values], Plan],
    objective: Objective,
    power: float,
    excess: Callable[[Values], Tensor] | None,
    spent: Callable[[], None],
) -> tuple[Tensor, Tensor]:
    """JᵀJ and Jᵀr of the loss at ``values``, each input weighted as the power mean weighs it."""

    def residuals(at: Values) -> list[tuple[float | None, Tensor]]:
        spent()
        found: list[tuple[float | None, Tensor]] = [*objective.residuals(plan(at))]
        return found if excess is None else [*found, (None, excess(at)[:, None])]

    count = len(_flat(values))
    matrix, slope = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count).double()
    for weight, residual, jacobian in _columns(values, residuals):
        root = _shares(residual, weight, power).sqrt()[:, None]
        flat = (jacobian * root[:, :, None]).flatten(0, 1)
        matrix += flat.T @ flat
        slope += flat.T @ (residual * root).flatten()
    return matrix, slope


def _shares(residual: Tensor, weight: float | None, power: float) -> Tensor:
    """What the square of each row counts for, (rows,), in ``weight`` times the logarithm of the
    power mean; without a weight the squares count as they are.
    """
    square = residual.square().sum(1).clamp(min=1e-300)
    if weight is None:
        return torch.ones_like(square)
    relative = (square / square.max()).pow(power / 2 - 1)
    return weight * relative / (relative * square).sum()


def _columns(
    values: Values, residuals: Callable[[Values], list[tuple[float | None, Tensor]]]
) -> Iterator[tuple[float | None, Tensor, Tensor]]:
    """Weight, residuals (rows, entries) and Jacobian (rows, entries, numbers), kind by kind."""
    flat = _flat(values)
    columns: list[list[Tensor]] = []
    for k in range(len(flat)):
        tangent = torch.zeros_like(flat)
        tangent[k] = 1.0
        with forward_ad.dual_level():
            found = residuals([
                _dual(value, part) if bool(part.any()) else value
                for value, part in zip(values, _split(tangent, values), strict=True)
            ])  # fmt: skip
            parts = [(weight, *_parts(residual)) for weight, residual in found]
        columns.append([r.new_zeros(r.shape) if d is None else d for _, r, d in parts])
    for (weight, residual, _), column in zip(parts, zip(*columns, strict=True), strict=True):
        yield weight, residual, torch.stack(column, dim=2)


def _dual(value: Tensor, tangent: Tensor) -> Tensor:
    dual: Tensor = forward_ad.make_dual(value, tangent)  # type: ignore[no-untyped-call]
    return dual


def _parts(dual: Tensor) -> tuple[Tensor, Tensor | None]:
    """Value and tangent."""
    primal, tangent = forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]
    return primal, tangent


def _flat(values: Values) -> Tensor:
    return torch.cat([value.flatten() for value in values])


def _split(flat: Tensor, like: Values) -> Iterator[Tensor]:
    sizes = [value.numel() for value in like]
    for part, value in zip(torch.split(flat, sizes), like, strict=True):
        yield part.reshape(value.shape)
