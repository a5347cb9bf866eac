"""An alarm as data: how unlike its solves on the calibration inputs a solve is, by its slopes.

    alarm(x) = sqrt(Σ_solves Σ_i scale_i² Σ_k ‖Σ_j row_kj · slope_j,i(x)‖²),   Σ_j row_kj = 0

over the state tensors i of each solve. Every row sums to zero, so that a field whose slope is the
same everywhere, which any plan solves exactly, gives none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from odedeploy.errors import BadInput


@dataclass(frozen=True)
class Residual:
    """What one solve adds to the alarm.

    ``rows`` (K, m) are coefficients of the ``slopes`` (m,) of the solve's program. ``axes`` is the
    batch axis of each state tensor, None for one without, which takes no part; ``scales`` are the
    state tensors' factors.
    """

    site: str
    slopes: tuple[int, ...]
    rows: tuple[tuple[float, ...], ...]
    scales: tuple[float, ...]
    axes: tuple[int | None, ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.slopes) for row in self.rows):
            raise BadInput(f"The alarm of {self.site!r} needs one coefficient per slope in a row.")
        if len(self.scales) != len(self.axes):
            raise BadInput(f"The alarm of {self.site!r} needs a scale and an axis per state.")

    @property
    def watched(self) -> tuple[tuple[int, int, np.ndarray], ...]:
        """(state tensor, batch axis, scaled rows (K, m)) of those that take part."""
        rows = np.array(self.rows)
        return tuple(
            (i, axis, scale * rows)
            for i, (axis, scale) in enumerate(zip(self.axes, self.scales, strict=True))
            if axis is not None
        )

    def squares(self, slopes: Mapping[int, tuple[np.ndarray, ...]]) -> np.ndarray:
        """Σ of squares of every input, shape (batch,): the slow, living definition in NumPy."""
        total: Any = 0.0
        for i, axis, rows in self.watched:
            for row in rows:
                r = sum(c * slopes[j][i] for c, j in zip(row, self.slopes, strict=True))
                moved = np.moveaxis(np.asarray(r), axis, 0)
                total = total + (moved**2).reshape(len(moved), -1).sum(1)
        return np.asarray(total)


@dataclass(frozen=True)
class Alarm:
    """An extra ``output`` (batch,) of a plan: above 1 where the calibration inputs seldom are."""

    output: str
    residuals: tuple[Residual, ...]

    def scaled(self, factor: float) -> Alarm:
        """The alarm multiplied by ``factor``."""
        return Alarm(
            self.output,
            tuple(
                Residual(r.site, r.slopes, r.rows, tuple(factor * s for s in r.scales), r.axes)
                for r in self.residuals
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; ``from_json`` gives the same alarm back, bit for bit."""
        return {
            "output": self.output,
            "residuals": [
                {
                    "site": r.site,
                    "slopes": list(r.slopes),
                    "rows": [list(row) for row in r.rows],
                    "scales": list(r.scales),
                    "axes": list(r.axes),
                }
                for r in self.residuals
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Alarm:
        """Raises LookupError, TypeError or ValueError for what ``to_json`` did not write."""
        return cls(
            str(data["output"]),
            tuple(
                Residual(
                    str(r["site"]),
                    tuple(map(int, r["slopes"])),
                    tuple(tuple(map(float, row)) for row in r["rows"]),
                    tuple(map(float, r["scales"])),
                    tuple(None if axis is None else int(axis) for axis in r["axes"]),
                )
                for r in data["residuals"]
            ),
        )
