"""Finds values that are one constant spread over the batch, and computes that constant once.

A value is *uniform* when it is a constant *row* spread over its shape, such as a time expanded to
the batch, or an embedding of one. Operators that treat every sample alike, such as a dense layer
or a concatenation of channels, keep a value uniform; they are applied to its *sample*, the row
spread over every axis but the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from odedeploy.passes.rewiring import add, attribute, initializer, integers, model_graph

ELEMENTWISE = frozenset(
    "Abs Add Cast Ceil Celu Clip Cos Cosh Div Elu Erf Exp Floor Gelu HardSigmoid HardSwish "
    "LeakyRelu Log Max Min Mish Mul Neg Pow Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh "
    "Softplus Softsign Sqrt Sub Sum Tan Tanh Where"
    .split()
)  # fmt: skip
"""Deterministic operators that broadcast their inputs and compute element by element."""

_SPREADING = frozenset(
    ("Expand", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Flatten", "Tile", "Slice")
)
"""Operators that move or repeat elements of their first input."""

Rows = dict[ir.Value, ir.Value]
"""From a uniform value to its row: a constant that broadcasts to it. A constant is its own row."""


def rows(graph: ir.Graph) -> Rows:
    """The uniform values of ``graph``.

    Adds the nodes that compute rows that do not exist yet, and nothing else; all read constants
    alone, and numbers without an axis, such as the time that a loop gives to its body or that a
    step-size control computes there. Rows have static shapes.
    """
    found: Rows = {
        value: value for value in graph.initializers.values() if not value.is_graph_input()
    }
    found |= {value: value for value in graph.inputs if _is_number(value)}
    for node in list(graph):
        if node.domain or not any(value is not None for value in node.inputs):
            continue
        for output, row in zip(node.outputs, _rows_of(node, found), strict=False):
            if row.shape is not None and row.shape.is_static():
                found[output] = row
        found |= {v: v for v in node.outputs if v not in found and _is_number(v)}
    return found


def combined(
    before: ir.Node,
    op_type: str,
    operands: Sequence[ir.Value | None],
    attributes: Mapping[str, ir.Attr] | None = None,
) -> ir.Value:
    """An elementwise operator on constants, with the dtype of the first and their joint shape."""
    value = add(before, op_type, operands, attributes)
    value.type = next(operand.type for operand in operands if operand is not None)
    value.shape = _broadcast([operand.shape for operand in operands if operand is not None])
    return value


def is_row(value: ir.Value, found: Rows, rank: int | None = None) -> bool:
    """Whether ``value`` is uniform along its first axis, or has fewer axes than ``rank``."""
    row = found.get(value)
    if row is None or row.shape is None or value.shape is None:
        return False
    return len(row.shape) < (rank or len(value.shape)) or row.shape[0] == 1


def _rows_of(node: ir.Node, found: Rows) -> Sequence[ir.Value]:
    """Rows of the outputs of ``node``; empty when they are not uniform."""
    reads = [value for value in node.inputs if value is not None]
    uniform = all(value in found for value in reads)
    pure = node.op_type in ELEMENTWISE | _SPREADING or node.op_type in _SAMPLEWISE
    if pure and all(found.get(value) is value for value in reads):
        if all(_static(output) for output in node.outputs):
            return node.outputs
    if node.op_type == "Expand" and reads[0] in found:
        return [found[reads[0]]]
    if node.op_type in ELEMENTWISE and uniform:
        inputs = [None if value is None else found[value] for value in node.inputs]
        row = combined(node, node.op_type, inputs, node.attributes)
        row.type = node.outputs[0].type
        return [row]
    return _of_one_element(node, found) or _of_samples(node, found)


def _of_one_element(node: ir.Node, found: Rows) -> list[ir.Value]:
    """A single number stays one, however it is moved or repeated."""
    source = None if node.inputs[0] is None else found.get(node.inputs[0])
    if source is None or source.shape is None or node.op_type not in _SPREADING:
        return []
    if np.prod(source.shape.numpy()) != 1:
        return []
    if len(source.shape) == 0:
        return [source]
    row = add(node, "Reshape", [source, initializer(model_graph(node), [])])
    row.type, row.shape = source.type, ir.Shape([])
    return [row]


def _of_samples(node: ir.Node, found: Rows) -> Sequence[ir.Value]:
    """The operator on the sample of every uniform operand, where it treats samples alike."""
    if node.op_type not in _SAMPLEWISE or not all(_batched(output) for output in node.outputs):
        return []
    first = node.outputs[0].shape
    batch = None if first is None else first[0]
    spread = [v is not None and found.get(v) is not v for v in node.inputs]
    for value, moving in zip(node.inputs, spread, strict=True):
        if value is None:
            continue
        if value not in found or (moving and (not _batched(value) or value.shape[0] != batch)):  # type: ignore[index]
            return []
    if not spread[0] or not _SAMPLEWISE[node.op_type](node, found):
        return []
    inputs = [
        _sample(node, value, found) if moving and value is not None else value
        for value, moving in zip(node.inputs, spread, strict=True)
    ]
    if node.op_type == "Reshape":
        inputs[1] = initializer(model_graph(node), _one(node.outputs[0]))
    copy = ir.node(node.op_type, inputs, node.attributes, num_outputs=len(node.outputs))
    model_graph(node).insert_before(node, copy)
    for old, new in zip(node.outputs, copy.outputs, strict=True):
        new.type, new.shape = old.type, ir.Shape(_one(old))
    return copy.outputs


def _sample(node: ir.Node, value: ir.Value, found: Rows) -> ir.Value:
    """The row of ``value`` spread over all of its axes but the batch, which is 1."""
    row, wanted = found[value], _one(value)
    if row.shape is not None and list(row.shape) == wanted:
        return row
    sample = add(node, "Expand", [row, initializer(model_graph(node), wanted)])
    sample.type, sample.shape = row.type or value.type, ir.Shape(wanted)
    return sample


def _one(value: ir.Value) -> list[int]:
    """The shape of one sample of a batched value."""
    assert value.shape is not None
    return [1, *(axis for axis in value.shape[1:] if isinstance(axis, int))]


def _batched(value: ir.Value) -> bool:
    """Whether the first axis is a named dynamic one and all others are static."""
    if value.shape is None or len(value.shape) == 0 or isinstance(value.shape[0], int):
        return False
    return value.shape[0].value is not None and all(isinstance(a, int) for a in value.shape[1:])


def _is_number(value: ir.Value) -> bool:
    floating = value.dtype is not None and value.dtype.is_floating_point()
    return floating and value.shape is not None and len(value.shape) == 0


def _static(value: ir.Value) -> bool:
    return value.shape is not None and value.shape.is_static()


def _broadcast(shapes: Sequence[ir.Shape | None]) -> ir.Shape:
    return ir.Shape(np.broadcast_shapes(*(shape.numpy() for shape in shapes if shape is not None)))


def _rank(value: ir.Value | None) -> int:
    return 0 if value is None or value.shape is None else len(value.shape)


def _constant_rest(node: ir.Node, found: Rows) -> bool:
    """Whether all inputs but the first are constants."""
    return all(value is None or found.get(value) is value for value in node.inputs[1:])


def _weighted(node: ir.Node, found: Rows) -> bool:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if attribute(node, "transA", 0) or not _constant_rest(node, found):
        return False
    return bias is None or is_row(bias, found, rank=2)


def _matrix(node: ir.Node, found: Rows) -> bool:
    return _constant_rest(node, found) and _rank(node.inputs[0]) >= 2 == _rank(node.inputs[1])


def _other_axis(default: int) -> Callable[[ir.Node, Rows], bool]:
    """Whether the ``axis`` of the node is not the batch."""

    def predicate(node: ir.Node, found: Rows) -> bool:
        axis = attribute(node, "axis", default)
        return axis % _rank(node.inputs[0]) != 0 and _constant_rest(node, found)

    return predicate


def _other_axes(node: ir.Node, found: Rows) -> bool:
    """Whether the axes in the last operand of the node are known and none is the batch."""
    axes = integers(node.inputs[-1]) if len(node.inputs) > 1 else None
    rank = max(_rank(node.inputs[0]), _rank(node.outputs[0]))
    return bool(axes) and all(axis % rank for axis in axes or ())


def _sliced(node: ir.Node, found: Rows) -> bool:
    axes = integers(node.inputs[3]) if len(node.inputs) > 3 else None
    if not _constant_rest(node, found) or axes is None:
        return False
    return all(axis % _rank(node.inputs[0]) for axis in axes)


def _concatenated(node: ir.Node, found: Rows) -> bool:
    moving = all(v is not None and found[v] is not v for v in node.inputs)
    return moving and attribute(node, "axis", 0) % _rank(node.inputs[0]) != 0


def _transposed(node: ir.Node, found: Rows) -> bool:
    permutation = node.attributes.get("perm")
    return permutation is not None and permutation.as_ints()[0] == 0


_SAMPLEWISE: Mapping[str, Callable[[ir.Node, Rows], bool]] = {
    "Concat": _concatenated,
    "Conv": _weighted,
    "Flatten": lambda node, found: attribute(node, "axis", 1) == 1,
    "Gather": _other_axis(0),
    "Gemm": _weighted,
    "LayerNormalization": _other_axis(-1),
    "LogSoftmax": _other_axis(-1),
    "MatMul": _matrix,
    "ReduceMean": _other_axes,
    "ReduceSum": _other_axes,
    "Reshape": lambda node, found: True,
    "Slice": _sliced,
    "Softmax": _other_axis(-1),
    "Split": _other_axis(0),
    "Squeeze": _other_axes,
    "Transpose": _transposed,
    "Unsqueeze": _other_axes,
}
"""Operators over samples along the first axis, each with what must hold for that."""
