"""``module:function``: a person's own error of an input; higher is worse."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from odedeploy.addresses import first_line, resolve
from odedeploy.errors import BadInput
from odedeploy.metrics.records import Answers, Floors, Metric, broken
from odedeploy.metrics.relative import floors_of
from odedeploy.spec import ExportSpec
from odedeploy.tolerance import worst_error

RESOLVED = 1e-2
"""Relative error of the outputs that counts as the tolerance when two resolutions of the reference
are compared: a function that is blind to most differences does not settle them alone."""


def build(spec: ExportSpec) -> Metric:
    """Errors by the function at ``spec.metric``.

    It is called with the outputs found and those of the reference and returns one number an input,
    shape (batch,): arrays when the model has one output, else dicts of arrays by name, batch first,
    the reference in float64. Inputs with outputs that are not finite have an infinite error and are
    not shown to it.

    Raises BadInput for a function that cannot be found, and, when errors are computed, for one that
    raises or returns anything else.
    """
    function = _find(spec.metric)

    def errors(found: Answers, reference: Answers, floors: Floors) -> np.ndarray:
        return _errors(spec.metric, function, found, reference)

    def resolved(found: Answers, reference: Answers, floors: Floors) -> np.ndarray:
        apart = worst_error(found.outputs, reference.outputs, floors) * (spec.tol / RESOLVED)
        worst: np.ndarray = np.maximum(apart, errors(found, reference, floors))
        return worst

    name = public_name(spec.metric)
    return Metric(
        name=name,
        limit=spec.tol,
        coverage=spec.coverage,
        errors=errors,
        resolved=resolved,
        floors=lambda reference: floors_of(reference.outputs),
        keeps=f"have an error by {name} of at most {spec.tol:g}",
        misses=f"have an error by {name} above {spec.tol:g}",
    )


def public_name(address: str) -> str:
    """The address without the folders it leads through on this machine."""
    return address.replace("\\", "/").rpartition("/")[2]


@cache
def _find(address: str) -> Any:
    function = resolve(address, "metric", "computes the errors")
    if not callable(function):
        raise BadInput(f"{address} is a {type(function).__name__}, not a function of two outputs.")
    return function


def _errors(name: str, function: Any, found: Answers, reference: Answers) -> np.ndarray:
    whole = ~(broken(found.outputs) | broken(reference.outputs))
    errors = np.full(len(whole), np.inf)
    if whole.any():
        given, truth = (_given(side.outputs, whole) for side in (found, reference))
        errors[whole] = _called(name, function, given, truth, int(whole.sum()))
    return errors


def _given(outputs: Mapping[str, np.ndarray], rows: np.ndarray) -> Any:
    chosen = {name: array[rows] for name, array in outputs.items()}
    return next(iter(chosen.values())) if len(chosen) == 1 else chosen


def _called(name: str, function: Any, found: Any, reference: Any, count: int) -> np.ndarray:
    try:
        errors = np.asarray(function(found, reference))
    except Exception as error:
        raise BadInput(
            f"The metric {name} raised {type(error).__name__} ({first_line(error)}); it is called "
            "with the outputs found and the reference outputs."
        ) from error
    if errors.shape != (count,) or errors.dtype.kind not in "fiub":
        raise BadInput(
            f"The metric {name} returned {errors.dtype} of shape {errors.shape} for {count} "
            f"inputs; return one number an input, shape ({count},)."
        )
    errors = errors.astype(np.float64)
    if (errors < 0).any():
        raise BadInput(
            f"The metric {name} returned {errors.min():g}; return errors, 0 or more, higher being "
            "worse."
        )
    return np.where(np.isnan(errors), np.inf, errors)
