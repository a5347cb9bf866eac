"""What a model's vector fields see along its own trajectories."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from odedeploy.errors import BadInput
from odedeploy.graph import Inputs
from odedeploy.lowering.field import FIELD
from odedeploy.passes.uniform import Rows, rows


@dataclass(frozen=True)
class Field:
    """The nodes of a lowered model that evaluate a vector field on the state.

    ``constants`` are the values of the model that depend on no input.
    """

    nodes: tuple[ir.Node, ...]
    constants: Rows

    def is_constant(self, value: ir.Value | None) -> bool:
        return value is not None and self.constants.get(value) is value


def field_of(model: ir.Model) -> Field:
    """Raises BadInput where a vector field holds a graph of its own, such as a loop."""
    found = rows(model.graph)
    nodes = []
    for node in model.graph:
        if FIELD not in node.meta or all(found.get(v) is v for v in node.outputs):
            continue
        if any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values()):
            raise BadInput(
                f"A vector field of this model holds a {node.op_type}, which no lower precision "
                "reaches; export it in fp32."
            )
        nodes.append(node)
    return Field(tuple(nodes), found)


@dataclass(frozen=True)
class Range:
    """Smallest and largest element of a value over all calibration inputs; 0 is always within."""

    low: float
    high: float

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def magnitude(self) -> float:
        return max(-self.low, self.high)


def observe(
    model: ir.Model, inputs: Inputs, ranges: Iterable[ir.Value], constants: Iterable[ir.Value]
) -> tuple[dict[ir.Value, Range], dict[ir.Value, np.ndarray]]:
    """The range of each of ``ranges`` on ``inputs``, and the elements of each of ``constants``.

    Runs ``model`` once, in onnxruntime, with what is asked for as further outputs of a copy.
    """
    import onnxruntime

    wanted, fixed = list(dict.fromkeys(ranges)), list(dict.fromkeys(constants))
    copy = model.clone()
    named = {value.name: value for node in copy.graph for value in node.outputs}
    for value in (*copy.graph.inputs, *copy.graph.initializers.values()):
        named[value.name] = value
    outputs: list[ir.Value] = []
    for value in wanted:
        for op_type in ("ReduceMin", "ReduceMax"):
            node = ir.node(op_type, [named[value.name]], {"keepdims": 0})
            node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
            copy.graph.append(node)
            outputs.append(node.outputs[0])
    for value in fixed:
        node = ir.node("Identity", [named[value.name]])
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        copy.graph.append(node)
        outputs.append(node.outputs[0])
    for i, output in enumerate(outputs):
        output.name = f"odedeploy.observed.{i}"
    copy.graph.outputs[:] = outputs
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    data = ir.to_proto(copy).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    asked = {value.name for value in session.get_inputs()}
    dtypes = {v.name: v.dtype.numpy() for v in copy.graph.inputs if v.dtype is not None}
    given = {
        name: np.asarray(array).astype(dtypes[name], copy=False)
        for name, array in inputs.items()
        if name in asked
    }
    results = session.run(None, given)
    seen = {
        value: Range(min(float(results[2 * i]), 0.0), max(float(results[2 * i + 1]), 0.0))
        for i, value in enumerate(wanted)
    }
    return seen, dict(zip(fixed, results[2 * len(wanted) :], strict=True))
