"""Named tolerances, and the error of one input."""

from __future__ import annotations

from collections.abc import Mapping
from enum import ReprEnum

import numpy as np

from odedeploy.errors import BadInput

FLOOR = 1e-6
"""Share of the typical reference norm below which a reference norm counts as zero."""


class Tolerance(float, ReprEnum):
    """Largest relative error allowed between two computations of the same thing."""

    EXACT = 0.0
    """The same bits."""
    ROUND_OFF = 1e-12
    """Two float64 computations in another order: 2⁻⁵³ and four digits of accumulation."""
    FLOAT32 = 1e-5
    """Two float32 computations in another order: 2⁻²⁴ and two digits of accumulation."""


def floor_of(reference: np.ndarray) -> float:
    """The least denominator of ``relative_error`` for one output: FLOOR × the median norm.

    It only keeps an input whose reference happens to vanish from having an infinite error, and is
    far below any norm that carries information in float32. When more than half of the norms are
    zero the largest takes the median's place, and when all are zero the error is absolute: 1.
    A discrete reference has no scale: 1.

    Raises BadInput when ``reference``, of shape (batch, …), has no batch axis.
    """
    reference = np.asarray(reference)
    if reference.ndim == 0:
        raise BadInput(f"A reference needs a batch axis, got the scalar {reference}.")
    if not np.issubdtype(reference.dtype, np.inexact):
        return 1.0
    norms = _norms(reference)
    norms = norms[np.isfinite(norms)]
    if not norms.any():
        return 1.0
    return max(FLOOR * float(np.median(norms) or norms.max()), float(np.finfo(float).tiny))


def relative_error(out: np.ndarray, ref: np.ndarray, floor: float) -> np.ndarray:
    """‖out − ref‖₂ / max(‖ref‖₂, floor) of every input, shape (batch,), in float64.

    ``out`` and ``ref`` have shape (batch, …), the norm runs over everything but the batch. An
    input whose ``out`` or ``ref`` is not finite has the error inf. Integer, boolean and other
    discrete outputs carry no scale: the error is 0 where all of an input's entries agree, else inf.

    Raises BadInput when shapes differ, an array has no batch axis or ``floor`` is not positive.
    """
    out, ref = np.asarray(out), np.asarray(ref)
    if out.shape != ref.shape or out.ndim == 0:
        raise BadInput(
            f"An output of shape {out.shape} cannot be compared with a reference of shape "
            f"{ref.shape}; give both the same shape (batch, …)."
        )
    if not floor > 0:
        raise BadInput(f"The floor of a relative error must be positive, got {floor}.")
    if not np.issubdtype(ref.dtype, np.inexact):
        return np.where(_flat(out == ref).all(axis=1), 0.0, np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        error = _norms(_wide(out) - _wide(ref)) / np.maximum(_norms(ref), floor)
    return np.where(np.isnan(error), np.inf, error)


def worst_error(
    outputs: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    floors: Mapping[str, float] | None = None,
    scales: Mapping[str, float] | None = None,
) -> np.ndarray:
    """The largest ``relative_error`` of every input over the named outputs, shape (batch,).

    ``floors`` by output default to ``floor_of`` the reference; give them when ``reference`` is
    one part of a larger batch, so that an input's error does not depend on its companions. The
    errors of the outputs in ``scales`` are multiplied by their factor.

    Raises BadInput when names, shapes or batch sizes differ or there are no outputs.
    """
    if not reference or set(outputs) != set(reference):
        raise BadInput(
            f"Outputs {sorted(outputs)} cannot be compared with references {sorted(reference)}; "
            "give the same names, at least one."
        )
    errors = [
        (scales or {}).get(name, 1.0)
        * relative_error(outputs[name], ref, floor_of(ref) if floors is None else floors[name])
        for name, ref in reference.items()
    ]
    if len({len(error) for error in errors}) > 1:
        sizes = {name: np.shape(ref)[0] for name, ref in reference.items()}
        raise BadInput(f"Outputs have different batch sizes {sizes}; give one batch.")
    worst: np.ndarray = np.max(errors, axis=0)
    return worst


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), int(np.prod(array.shape[1:])))


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.result_type(array.dtype, np.float64))


def _norms(array: np.ndarray) -> np.ndarray:
    """2-norm of every input, shape (batch,), in float64."""
    norms: np.ndarray = np.linalg.norm(_flat(_wide(array)), axis=1)
    return norms
