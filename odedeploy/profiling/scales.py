"""Logarithmic axes, and where on a plot their shares lie."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720.0, 420.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 16.0, 26.0, 44.0
"""Margins around the axes, in pixels."""

EXACT = 1e-8
"""Where an error of zero is drawn, below the round-off of float32."""


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis; ``share`` maps a value to 0 … 1."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Axis:
        """With a little room around the values."""
        low, high = (min(values), max(values)) if values else (0.1, 1.0)
        room = max(1.35, (high / low) ** 0.07)
        return cls(low / room, high * room)

    def share(self, value: float) -> float:
        inside = min(max(value, 1e-300), 1e300)
        return math.log(inside / self.low) / math.log(self.high / self.low)

    def ticks(self) -> Iterator[tuple[float, int]]:
        """Values with their rank: 0 for a power of ten, 1 for 2 and 5, 2 for the rest; two decades
        more at either end, for who zooms out."""
        first, last = math.floor(math.log10(self.low)) - 2, math.ceil(math.log10(self.high)) + 2
        for exponent in range(first, last + 1):
            for digit in range(1, 10):
                rank = 0 if digit == 1 else 1 if digit in (2, 5) else 2
                yield float(f"{digit}e{exponent}"), rank


def x_at(u: float, more: float = 0.0) -> str:
    return f"{LEFT + u * (WIDTH - LEFT - RIGHT) + more:.1f}"


def y_at(v: float, more: float = 0.0) -> str:
    return f"{TOP + v * (HEIGHT - TOP - BOTTOM) + more:.1f}"


def power(value: float) -> str:
    """1e-2 for 0.01."""
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
