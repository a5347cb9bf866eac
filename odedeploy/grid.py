"""Time grids: where the steps of a fixed-step solve begin and end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from odedeploy.errors import BadInput


@dataclass(frozen=True)
class Grid:
    """Strictly monotone step boundaries, forward or reversed in time, in float64.

    ``times`` are the n + 1 boundaries of n steps. ``outputs`` are indices into ``times`` at which
    the solution is delivered, in the order of the caller's output times; the first is 0, the
    initial state.

    Raises BadInput for fewer than two times, times that are not finite or not strictly monotone,
    or outputs outside the grid.
    """

    times: tuple[float, ...]
    outputs: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.times) < 2:
            raise BadInput(f"A grid needs at least two times, got {self.times}; add the end time.")
        direction = math.copysign(1.0, self.times[-1] - self.times[0])
        for a, b in pairwise(self.times):
            if not math.isfinite(b - a):
                raise BadInput(f"A grid's times and steps must be finite, got {a} and {b}.")
            if (b - a) * direction <= 0:
                raise BadInput(
                    f"A grid's times must increase or decrease strictly, got {a} before {b}; "
                    "remove repeated times."
                )
        if not self.outputs or any(not 0 <= i < len(self.times) for i in self.outputs):
            raise BadInput(f"A grid of {len(self.times)} times has no outputs {self.outputs}.")

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.times) - 1

    @classmethod
    def uniform(cls, t0: float, t1: float, steps: int) -> Grid:
        """``steps`` equal steps from t0 to t1, t_k = t0 + (t1 − t0)·k/n, the end pinned."""
        return cls.through((t0, t1), steps)

    @classmethod
    def through(cls, outputs: Sequence[float], steps: int) -> Grid:
        """At least ``steps`` steps over the output times, each of which is a step boundary.

        Every interval between output times gets equal steps, their number proportional to its
        length and at least one; the total is ``steps`` or the number of intervals, whichever is
        larger.

        Raises BadInput for fewer than one step or two output times, or output times that are not
        finite and strictly monotone.
        """
        if steps < 1:
            raise BadInput(f"A grid needs at least one step, got {steps}.")
        if len(outputs) < 2:
            raise BadInput(f"A grid needs at least two output times, got {tuple(outputs)}.")
        lengths = [abs(b - a) for a, b in pairwise(outputs)]
        counts = _apportion(lengths, max(steps, len(lengths)))
        times, marks = [float(outputs[0])], [0]
        for (a, b), n in zip(pairwise(outputs), counts, strict=True):
            times += [a + (b - a) * k / n for k in range(1, n)] + [float(b)]
            marks.append(len(times) - 1)
        return cls(tuple(times), tuple(marks))

    @classmethod
    def spread(
        cls, outputs: Sequence[float], steps: int, nodes: np.ndarray, mass: np.ndarray
    ) -> Grid:
        """Like ``through``, with steps placed so that each carries the same mass.

        ``mass`` is a cumulative, strictly increasing function of time from the first output on,
        linear between its values at ``nodes``, which run from the first output to the last.
        """
        direction = 1.0 if outputs[-1] > outputs[0] else -1.0
        along = direction * np.asarray(nodes, dtype=np.float64)
        marks_mass = np.interp(direction * np.asarray(outputs), along, mass)
        counts = _apportion(list(np.diff(marks_mass)), max(steps, len(outputs) - 1))
        times, marks = [float(outputs[0])], [0]
        for k, b in enumerate(outputs[1:]):
            inner = np.linspace(marks_mass[k], marks_mass[k + 1], counts[k] + 1)[1:-1]
            times += [float(direction * t) for t in np.interp(inner, mass, along)] + [float(b)]
            marks.append(len(times) - 1)
        return cls(tuple(times), tuple(marks))


def _apportion(lengths: Sequence[float], total: int) -> list[int]:
    """Split ``total`` ≥ len(lengths) into counts ≥ 1 that keep the longest step shortest."""
    counts = [1] * len(lengths)
    for _ in range(total - len(lengths)):
        longest = max(range(len(lengths)), key=lambda i: lengths[i] / counts[i])
        counts[longest] += 1
    return counts
