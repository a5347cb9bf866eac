"""What a graph takes and gives."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from odedeploy.manifest import TensorSpec


def input_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Name, dtype and shape of every input; symbolic axes by their names."""
    return _specs(model.graph.inputs)


def output_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Name, dtype and shape of every output; symbolic axes by their names."""
    return _specs(model.graph.outputs)


def _specs(values: Iterable[ir.Value]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(str(value.name), value.dtype.numpy().name, _axes(value))
        for value in values
        if value.dtype is not None
    )


def _axes(value: ir.Value) -> tuple[int | str, ...]:
    if value.shape is None:
        return ()
    return tuple(axis if isinstance(axis, int) else str(axis.value) for axis in value.shape)
