"""Relative errors of named arrays, each in its own tolerance."""

from __future__ import annotations

import numpy as np

from odedeploy.errors import UnknownName
from odedeploy.metrics.records import Arrays, Floors
from odedeploy.spec import ExportSpec
from odedeploy.tolerance import floor_of, worst_error


def floors_of(reference: Arrays) -> dict[str, float]:
    """Least denominators of the relative error, by name."""
    with np.errstate(over="ignore"):
        return {name: floor_of(array) for name, array in reference.items()}


def scaled_error(
    found: Arrays, reference: Arrays, floors: Floors, spec: ExportSpec, kind: str
) -> np.ndarray:
    """``worst_error`` in which an array at a tolerance of its own has the error ``spec.tol``.

    Raises UnknownName for a tolerance of something that is not there.
    """
    for name in spec.tols:
        if name not in reference:
            raise UnknownName(kind, name, reference)
    scales = {name: spec.tol / own for name, own in spec.tols.items()}
    with np.errstate(over="ignore"):
        return worst_error(found, reference, floors, scales)


def tolerances(spec: ExportSpec) -> str:
    """``0.01``, or ``0.01 (logits 0.001)``."""
    own = ", ".join(f"{name} {tol:g}" for name, tol in spec.tols.items())
    return f"{spec.tol:g}" + (f" ({own})" if own else "")
