"""Solves that become a chain of solves.

*Times that are an input of the model.* On the interval from t_i to t_{i+1}, the fraction s ∈ [0, 1]
of it that has passed is a time too: dy/ds = (t_{i+1} − t_i) · f(t_i·(1 − s) + t_{i+1}·s, y). A
Runge–Kutta step in s is the same step in t, so a plan in s holds for whatever times arrive, and the
times are context of the vector field.

*Jumps.* Where the vector field jumps at a known time, one solve ends just before and the next
begins just after, so that no step crosses the jump and each sees its own side of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from odedeploy.errors import CaptureRefused
from odedeploy.executor import Field, States
from odedeploy.executor import solve as execute
from odedeploy.frontends.interception import Handler, SolveCall
from odedeploy.frontends.probing import curved, probe, round_off
from odedeploy.program import SolvePlan

UNIT = (0.0, 1.0)
"""The times of every solve between run-time times."""

Way = Callable[[SolveCall, Handler], States]
"""How a call reaches a handler: whole, or as a chain of calls."""


def along(ways: Sequence[Way], handler: Handler) -> Handler:
    """``handler``, which the i-th solve of a forward reaches by ``ways[i]``."""
    remaining = iter(ways)

    def handle(call: SolveCall) -> States:
        return next(remaining, whole)(call, handler)

    return handle


def whole(call: SolveCall, handler: Handler) -> States:
    """One solve, as it was called."""
    return handler(call)


def by_intervals(call: SolveCall, handler: Handler) -> States:
    """A solve over the unit interval for each interval between the times, which may be inputs."""
    times = call.times
    if not times.is_floating_point():
        times = times.to(call.initial[0].dtype)
    unit = torch.tensor(UNIT, dtype=torch.float64)
    passed = [call.initial]
    for start, end in pairwise(times[i] for i in range(len(times))):
        field = stretched(call.field, start, end)
        piece = handler(replace(call, field=field, initial=passed[-1], times=unit, kept=None))
        passed.append(tuple(trajectory[-1] for trajectory in piece))
    return tuple(torch.stack(states) for states in zip(*passed, strict=True))


@dataclass(frozen=True)
class ByPieces:
    """A solve for each piece between jumps of the vector field.

    ``pieces`` are the output times of each, and ``delivered`` which of them the caller asked for,
    as places in their trajectories.
    """

    pieces: tuple[tuple[float, ...], ...]
    delivered: tuple[tuple[int, ...], ...]

    @classmethod
    def between(cls, times: Sequence[float], jumps: Sequence[float]) -> ByPieces:
        """Cut ``times``, monotone, at the ``jumps`` that lie between the first and the last."""
        forward = times[-1] > times[0]
        inside = {j for j in jumps if min(times) < j < max(times)}
        ends = [times[0], *sorted(inside, reverse=not forward), times[-1]]
        pieces, delivered = [], []
        for a, b in pairwise(ends):
            inner = [t for t in times if min(a, b) < t < max(a, b)]
            start = _beside(a, forward) if a in inside else a
            end = _beside(b, not forward) if b in inside else b
            pieces.append((start, *inner, end))
            asked = range(1, len(inner) + 1 + (b in times))
            delivered.append(tuple(asked) if pieces[:-1] else (0, *asked))
        return cls(tuple(pieces), tuple(delivered))

    def __call__(self, call: SolveCall, handler: Handler) -> States:
        initial, rows = call.initial, list[States]()
        for piece, asked in zip(self.pieces, self.delivered, strict=True):
            times = torch.tensor(piece, dtype=torch.float64)
            found = handler(replace(call, initial=initial, times=times))
            initial = tuple(trajectory[-1] for trajectory in found)
            rows += [tuple(trajectory[i] for trajectory in found) for i in asked]
        return tuple(torch.stack(states) for states in zip(*rows, strict=True))


def _beside(time: float, later: bool) -> float:
    """The next number in single precision, in which a file computes."""
    return float(np.nextafter(np.float32(time), np.float32(np.inf if later else -np.inf)))


def stretched(field: Field, start: Tensor, end: Tensor) -> Field:
    """dy/ds for the fraction s of the way from ``start`` to ``end``, where dy/dt is ``field``."""
    width = end - start

    def slopes(fraction: Tensor, states: States) -> States:
        s = fraction.to(start.dtype)
        time = start * (1 - s) + end * s
        derivatives = field(time.to(fraction.dtype), states)
        return tuple(k * width.to(k.dtype) for k in derivatives)

    return slopes


def kept_intervals(call: SolveCall, names: Sequence[str]) -> tuple[SolvePlan, ...]:
    """The exact plans, one per interval, of a fixed-step ``call`` whose times are an input.

    Raises CaptureRefused when its steps are not the same on every interval whatever the times,
    as they are not with a step size or a multi-step method.
    """
    assert call.kept is not None
    unit = torch.tensor(UNIT, dtype=torch.float64)
    try:
        plan = probe(call.kept, unit, names[0], call.method)
        same = all(_same(call, plan, times) for times in _others(call.times.detach()))
    except (AssertionError, CaptureRefused):
        same = False
    if not same:
        raise CaptureRefused(
            f"{call.location}: the times of the solve are an input, and the steps of its "
            f"fixed-step method {call.method!r} depend on them; use a one-step method without "
            "step_size, whose steps are the intervals between the times, or give --replan."
        )
    return tuple(replace(plan, site=name) for name in names)


def _others(times: Tensor) -> tuple[Tensor, ...]:
    """``times`` (T,), and others with shorter and longer intervals."""
    times = times.double()
    lengths = times.diff()
    factors = torch.linspace(0.37, 1.3, len(lengths), dtype=torch.float64)
    moved = [times[:1] + (lengths * f).cumsum(0) for f in (factors, 3.1 * factors.flip(0))]
    return times, *(torch.cat([times[:1], m]) for m in moved)


def _same(call: SolveCall, plan: SolvePlan, times: Tensor) -> bool:
    """Whether ``plan`` on every interval is the caller's solve over ``times``."""
    assert call.kept is not None
    initial = (torch.linspace(-1, 1, 7, dtype=torch.float64),)
    (expected,) = call.kept(curved, initial, times)
    found = [initial]
    for start, end in pairwise(times):
        (piece,) = execute(plan.program, stretched(curved, start, end), found[-1])
        found.append((piece[-1],))
    tolerance = max(1e-9, round_off(times) * len(plan.program.instructions) * len(times))
    states = torch.cat([state[None] for (state,) in found])
    return torch.allclose(expected, states, rtol=tolerance, atol=tolerance)
