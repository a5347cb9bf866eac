"""Inputs of an artefact that have a default: what may be given, and when to be wary of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from odedeploy.errors import BadInput
from odedeploy.manifest import Manifest, TensorSpec

STEPS = "steps"
"""The number of steps of a loop; also its key in the manifest's ``extra``."""

BATCH = "batch"
"""Key in the manifest's ``extra`` of the one batch size that a file takes."""

CONTROL = "control"
"""Key in the manifest's ``extra`` of what controls the steps of an adaptive file."""

TOLERANCES = ("rtol", "atol")
"""The inputs of an adaptive file for its tolerance of a step."""


def check_options(given: Mapping[str, Any], specs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """``given`` as arrays of the dtypes of ``specs``; single numbers are converted.

    Raises BadInput for what is no single number, not positive or not whole where it must be.
    """
    arrays = {}
    for spec in specs:
        if spec.name not in given:
            continue
        value = np.asarray(given[spec.name])
        number = value.ndim == 0 and value.dtype.kind in "iuf" and bool(value > 0)
        whole = np.dtype(spec.dtype).kind == "f" or value.dtype.kind in "iu"
        if not (number and whole and np.isfinite(value)):
            raise BadInput(
                f"{spec.name!r} takes one positive {spec.dtype}, got {given[spec.name]!r}."
            )
        arrays[spec.name] = value.astype(spec.dtype)
    return arrays


def warn_of_options(options: Mapping[str, np.ndarray], manifest: Manifest | None) -> None:
    """Warn of a step count or a tolerance for which the artefact is not certified."""
    _warn_of_steps(options, manifest)
    control = None if manifest is None else manifest.extra.get(CONTROL)
    if control is None or manifest is None:
        return
    certified = float(control["tolerance"])
    for name in TOLERANCES:
        asked = float(options.get(name, certified))
        if asked > certified * (1 + 1e-6):
            warnings.warn(
                f"{name} = {asked:g} is above {certified:g}, with which this file is certified to "
                f"keep its tolerance {manifest.tol:g}.",
                stacklevel=4,
            )


def _warn_of_steps(options: Mapping[str, np.ndarray], manifest: Manifest | None) -> None:
    known = None if manifest is None else manifest.extra.get(STEPS)
    if STEPS not in options or known is None or manifest is None:
        return
    low, high = known["certified"] or (known["default"], known["default"])
    steps = int(options[STEPS])
    if not low <= steps <= high:
        warnings.warn(
            f"{steps} steps are outside {low} to {high}, for which the error of this file is "
            f"measured to keep its tolerance {manifest.tol:g}.",
            stacklevel=5,
        )
