"""Finds values that are one constant spread over their shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from odedeploy.passes.rewiring import add, initializer, model_graph

ELEMENTWISE = frozenset(
    "Abs Add Cos Div Exp Log Mul Neg Pow Reciprocal Relu Sigmoid Sin Softplus Sqrt Sub Tan Tanh"
    .split()
)  # fmt: skip
"""Deterministic operators that broadcast their inputs and compute element by element."""

_SPREADING = frozenset(
    ("Expand", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Flatten", "Tile", "Slice")
)
"""Operators that move or repeat elements of their first input."""

_PURE = ELEMENTWISE | _SPREADING | {"Concat", "Gather", "Cast", "Gemm", "MatMul", "Conv"}

Rows = dict[ir.Value, ir.Value]
"""From a uniform value to its row: a constant that broadcasts to it. A constant is its own row."""


def rows(graph: ir.Graph) -> Rows:
    """The uniform values of ``graph``.

    Adds the nodes that compute rows that do not exist yet, and nothing else; all read constants
    alone, and inputs of no axis, such as the time that a loop gives to its body. Rows have static
    shapes.
    """
    found: Rows = {
        value: value for value in graph.initializers.values() if not value.is_graph_input()
    }
    found |= {value: value for value in graph.inputs if _is_number(value)}
    for node in list(graph):
        if node.domain or len(node.outputs) != 1:
            continue
        row = _row(node, found)
        if row is not None and row.shape is not None and row.shape.is_static():
            found[node.outputs[0]] = row
    return found


def _row(node: ir.Node, found: Rows) -> ir.Value | None:
    reads = [value for value in node.inputs if value is not None]
    constant = all(found.get(value) is value for value in reads)
    if node.op_type in _PURE and constant:
        return node.outputs[0] if _static(node.outputs[0]) else _spread_row(node, found)
    if node.op_type in ELEMENTWISE and all(value in found for value in reads):
        inputs = [found[value] for value in reads]
        row = add(node, node.op_type, inputs, node.attributes)
        row.type = node.outputs[0].type
        row.shape = _broadcast([value.shape for value in inputs if value.shape is not None])
        return row
    return _spread_row(node, found)


def _spread_row(node: ir.Node, found: Rows) -> ir.Value | None:
    source = found.get(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
    if source is None or source.shape is None or node.op_type not in _SPREADING:
        return None
    if node.op_type == "Expand":
        return source
    if np.prod(source.shape.numpy()) != 1:
        return None
    if len(source.shape) == 0:
        return source
    row = add(node, "Reshape", [source, initializer(model_graph(node), [])])
    row.type, row.shape = source.type, ir.Shape([])
    return row


def _is_number(value: ir.Value) -> bool:
    floating = value.dtype is not None and value.dtype.is_floating_point()
    return floating and value.shape is not None and len(value.shape) == 0


def _static(value: ir.Value) -> bool:
    return value.shape is not None and value.shape.is_static()


def _broadcast(shapes: Sequence[ir.Shape]) -> ir.Shape:
    return ir.Shape(np.broadcast_shapes(*(shape.numpy() for shape in shapes)))
