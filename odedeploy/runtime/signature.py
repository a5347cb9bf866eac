"""What a model takes and gives: inputs checked before a run, and where the batch axis is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from odedeploy.errors import BadInput
from odedeploy.manifest import TensorSpec

Arrays = Mapping[str, np.ndarray]
"""Arrays by input or output name."""

UNNAMED = "?"
"""A dynamic axis without a name; two of them need not agree."""


def check_inputs(inputs: Mapping[str, Any], specs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """``inputs`` as arrays that fit ``specs``; nothing is cast, filled in or broadcast.

    Raises BadInput for missing and unknown names, another dtype, rank or fixed axis, an empty
    axis, axes of one name with several sizes, and NaN or infinity.
    """
    _check_names(inputs, specs)
    sizes: dict[str, tuple[int, str]] = {}
    arrays = {}
    for spec in specs:
        array = _array(spec.name, inputs[spec.name])
        _check_dtype(array, spec)
        _check_shape(array, spec, sizes)
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise BadInput(
                f"Input {spec.name!r} is {array[first]} at {first}; give finite numbers."
            )
        arrays[spec.name] = array
    return arrays


def batch_symbol(specs: Sequence[TensorSpec]) -> str | None:
    """Name of the batch axis, the first dynamic leading axis of the inputs; None when all fixed."""
    leading = (spec.shape[0] for spec in specs if spec.shape)
    return next((axis for axis in leading if isinstance(axis, str)), None)


def batch_first(
    outputs: Arrays, specs: Sequence[TensorSpec], symbol: str | None
) -> dict[str, np.ndarray]:
    """``outputs`` with the axis called ``symbol`` moved to the front.

    A trajectory (times, batch, …) becomes (batch, times, …). Outputs without such an axis stay as
    they are.
    """
    axes = {spec.name: spec.shape.index(symbol) for spec in specs if symbol in spec.shape}
    return {name: np.moveaxis(array, axes.get(name, 0), 0) for name, array in outputs.items()}


def _check_names(inputs: Mapping[str, Any], specs: Sequence[TensorSpec]) -> None:
    names = [spec.name for spec in specs]
    missing = [name for name in names if name not in inputs]
    unknown = [name for name in inputs if name not in names]
    if missing or unknown:
        faults = [f"{n!r} is missing" for n in missing] + [f"{n!r} is unknown" for n in unknown]
        raise BadInput(f"The model takes the inputs {names}: {', '.join(faults)}.")


def _array(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise BadInput(
            f"Input {name!r} is no array ({type(value).__name__}: {reason}); give a NumPy array."
        ) from error


def _check_dtype(array: np.ndarray, spec: TensorSpec) -> None:
    if array.dtype != np.dtype(spec.dtype):
        raise BadInput(
            f"Input {spec.name!r} has dtype {array.dtype}, the model takes {spec.dtype}; "
            f"convert it where the loss is known to be harmless, with "
            f"{spec.name}.astype('{spec.dtype}')."
        )


def _check_shape(array: np.ndarray, spec: TensorSpec, sizes: dict[str, tuple[int, str]]) -> None:
    fits = array.ndim == len(spec.shape) and all(
        isinstance(wanted, str) or wanted == size
        for wanted, size in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise BadInput(
            f"Input {spec.name!r} has shape {array.shape}, the model takes {_show(spec.shape)}; "
            "reshape it."
        )
    for wanted, size in zip(spec.shape, array.shape, strict=True):
        if not size and isinstance(wanted, str):
            raise BadInput(
                f"Input {spec.name!r} is empty, its axis {wanted!r} has size 0; give at least one."
            )
        if isinstance(wanted, str) and wanted != UNNAMED:
            known, owner = sizes.setdefault(wanted, (size, spec.name))
            if known != size:
                raise BadInput(
                    f"The axis {wanted!r} has size {known} in input {owner!r} but {size} in "
                    f"{spec.name!r}; give one size."
                )


def _show(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
