"""What a graph takes and gives."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from odedeploy.manifest import TensorSpec
from odedeploy.program import Plan
from odedeploy.program.control import REPORTS


def input_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Name, dtype and shape of every input; symbolic axes by their names."""
    return _specs(model.graph.inputs)


def output_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Name, dtype and shape of every output; symbolic axes by their names."""
    return _specs(model.graph.outputs)


def delivered_specs(model: ir.Model, plan: Plan) -> tuple[TensorSpec, ...]:
    """The outputs of ``model`` under ``plan``: its own and, last, the plan's alarm or the reports
    of its step-size control."""
    specs, batch = output_specs(model), batch_symbol(model.graph)
    if plan.control is not None:
        shape = (str(batch),) if plan.control.per_sample else ()
        return (*specs, *(TensorSpec(name, "int64", shape) for name in REPORTS))
    if plan.alarm is None:
        return specs
    return (*specs, TensorSpec(plan.alarm.output, "float32", (str(batch),)))


def batch_symbol(graph: ir.Graph) -> str | None:
    """Name of the batch axis: the first symbolic leading axis of an input."""
    leading = (value.shape[0] for value in graph.inputs if value.shape)
    return next((axis.value for axis in leading if not isinstance(axis, int)), None)


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
