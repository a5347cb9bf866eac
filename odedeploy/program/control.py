"""Step-size control as data: how a solve that chooses its own steps does so."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

RTOL, ATOL, MAX_EVALUATIONS = "rtol", "atol", "max_evaluations"
"""Inputs that have defaults: relative and absolute tolerance of a step, evaluations of a solve."""

OPTIONS = ((RTOL, "float32"), (ATOL, "float32"), (MAX_EVALUATIONS, "int64"))
"""These inputs and their dtypes, 0-d, of a model in float32."""

EVALUATIONS, CONVERGED = "evaluations", "converged"
"""Outputs, int64: evaluations of all solves together, and 1 when all reached their ends. 0-d, or of
shape (batch,) where every sample has its own steps."""

REPORTS = (EVALUATIONS, CONVERGED)


@dataclass(frozen=True)
class Control:
    """Defaults of a solve by an embedded pair.

    ``tolerance`` is both ``rtol`` and ``atol``. Steps are shared by the samples of a batch, whose
    error norm runs over all of them, unless ``per_sample`` gives each its own.
    """

    tolerance: float = 1e-3
    max_evaluations: int = 10_000
    solver: str = "dopri5"
    per_sample: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Control:
        """Raises TypeError or ValueError for anything that ``to_json`` did not write."""
        return cls(
            float(data["tolerance"]), int(data["max_evaluations"]), str(data["solver"]),
            bool(data["per_sample"]),
        )  # fmt: skip
