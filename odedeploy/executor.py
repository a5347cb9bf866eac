"""Plans run in PyTorch: any program, any state structure, any floating dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from odedeploy.program import Combine, Evaluate, Program

States = tuple[Tensor, ...]
"""The tensors of one ODE state, each of any shape."""

Field = Callable[[Tensor, States], States]
"""f(t, states) → derivatives; t is 0-d, of the dtype of the states."""


def solve(
    program: Program,
    field: Field | Sequence[Field],
    initial: States,
    noted: dict[int, States] | None = None,
) -> States:
    """Run ``program`` from ``initial``; one trajectory (output times, *state) per state tensor.

    ``field`` is a sequence, one field per evaluation, where evaluations have constants of their
    own. Times and coefficients are rounded from float64 to the dtype of the state where they are
    used. Those that are 0-d tensors keep their gradients. Every slope is noted in ``noted`` by
    its number, when that is given.
    """
    states: dict[int, States] = {0: initial}
    slopes: dict[int, States] = {}
    like = initial[0]
    fields = iter([field] * program.evaluations if callable(field) else field)
    for step, (dead_slopes, dead_states) in zip(
        program.instructions, _expiries(program), strict=True
    ):
        if isinstance(step, Evaluate):
            time = torch.as_tensor(step.time, dtype=like.dtype, device=like.device)
            slopes[step.slope] = tuple(next(fields)(time, states[step.state]))
            if noted is not None:
                noted[step.slope] = slopes[step.slope]
        else:
            states[step.state] = _combine(step, states, slopes)
        for slope in dead_slopes:
            del slopes[slope]
        for state in dead_states:
            del states[state]
    return tuple(
        torch.stack([states[output][i] for output in program.outputs]) for i in range(len(initial))
    )


def _combine(step: Combine, states: dict[int, States], slopes: dict[int, States]) -> States:
    combined = []
    for i, total in enumerate(states[step.base]):
        for slope, coefficient in step.terms:
            total = _added(total, slopes[slope][i], coefficient)
        combined.append(total)
    return tuple(combined)


def _added(total: Tensor, slope: Tensor, coefficient: float | Tensor) -> Tensor:
    """total + coefficient · slope; of a plain number in one operator, as it is exported."""
    if isinstance(coefficient, Tensor):
        return total + coefficient.to(slope.dtype) * slope
    return torch.add(total, slope, alpha=coefficient)


def _expiries(program: Program) -> Sequence[tuple[list[int], list[int]]]:
    """Per instruction, the slopes and states that nothing reads afterwards."""
    seen_slopes: set[int] = set()
    seen_states = set(program.outputs)
    expiries: list[tuple[list[int], list[int]]] = []
    for step in reversed(program.instructions):
        if isinstance(step, Evaluate):
            slopes, states = {step.slope}, {step.state}
        else:
            slopes, states = {slope for slope, _ in step.terms}, {step.base, step.state}
        expiries.append((sorted(slopes - seen_slopes), sorted(states - seen_states)))
        seen_slopes |= slopes
        seen_states |= states
    return expiries[::-1]
