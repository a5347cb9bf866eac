"""What depends on time alone is taken out of the work done per input.

After unrolling, time is a constant, but models spread it over the batch and concatenate it to the
state. A value is *uniform* when it is a constant spread over its shape; the constant is its row.
With W split by input channel into (W_y, W_u), a linear operator gives

    op(concat(y, u); W, b) = op(y; W_y, b) + op(row; W_u)

where the second term is a constant, exact with zero padding and for every batch size; a Gemm takes
b + op(row; W_u) as its third operand. Runtimes fold it when they load the model. The weights stay
as they are in the file; W_y and W_u are slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import onnx_ir as ir

from odedeploy.passes.rewiring import (
    add,
    attribute,
    forward,
    initializer,
    model_graph,
    same_shape,
)
from odedeploy.passes.uniform import ELEMENTWISE, Rows, is_row, rows

LINEAR = frozenset(("Conv", "Gemm", "MatMul"))


def run(model: ir.Model) -> bool:
    """Use rows in place of uniform values, in elementwise and linear operators.

    Shapes of the operands must be known: the channels, and a convolution's spatial axes. Values
    change by round-off only.
    """
    found = rows(model.graph)
    changed = False
    for node in list(model.graph):
        if node.domain:
            continue
        if node.op_type in ELEMENTWISE:
            changed |= _use_rows(node, found)
        elif node.op_type in LINEAR:
            changed |= _split(node, found)
    return changed


def _use_rows(node: ir.Node, found: Rows) -> bool:
    """op(y, u) → op(y, row) where u does not widen the result."""
    if not any(v not in found and same_shape(v, node.outputs[0]) for v in node.inputs):
        return False
    changed = False
    for i, value in enumerate(node.inputs):
        if value is not None and found.get(value, value) is not value:
            node.replace_input_with(i, found[value])
            changed = True
    return changed


def _split(node: ir.Node, found: Rows) -> bool:
    """op(concat(y, u); W, b) → op(y; W_y, b) + op(row; W_u)."""
    parts = _parts(node)
    if parts is None or not _linear(node, found):
        return False
    channels, area = [_axis(part, 1) for part in parts], _area(node)
    uniform = [is_row(part, found) for part in parts]
    if any(uniform) == all(uniform) or None in channels or area is None:
        return False
    sizes = [size for size in channels if size is not None]
    spread = [
        add(node, "Expand", [found[part], initializer(model_graph(node), [1, size, *area])])
        for part, size, chosen in zip(parts, sizes, uniform, strict=True)
        if chosen
    ]
    states = [part for part, chosen in zip(parts, uniform, strict=True) if not chosen]
    blocks = _blocks(node, sizes)
    fixed = [block for block, chosen in zip(blocks, uniform, strict=True) if chosen]
    moving = [block for block, chosen in zip(blocks, uniform, strict=True) if not chosen]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    axis = _channel_axis(node)
    row, own = _joined(node, spread, 1), _joined(node, fixed, axis)
    state, weight = _joined(node, states, 1), _joined(node, moving, axis)
    output = node.outputs[0]
    if node.op_type == "Gemm":
        result = _apply(node, state, weight, _apply(node, row, own, bias), like=output)
    else:
        moved = _apply(node, state, weight, bias, like=output)
        result = add(node, "Add", [moved, _apply(node, row, own)], like=output)
    forward(node, output, result)
    model_graph(node).remove(node, safe=True)
    return True


def _parts(node: ir.Node) -> list[ir.Value] | None:
    """What the input of ``node`` concatenates along its channels."""
    concat = None if node.inputs[0] is None else node.inputs[0].producer()
    if concat is None or concat.op_type != "Concat" or concat.domain:
        return None
    shape = concat.outputs[0].shape
    if shape is None or attribute(concat, "axis", 0) % len(shape) != 1:
        return None
    if (len(shape) == 2) == (node.op_type == "Conv"):
        return None
    return [part for part in concat.inputs if part is not None]


def _linear(node: ir.Node, found: Rows) -> bool:
    """Whether weight and bias are constants and the attributes leave the split exact."""
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if weight is None or found.get(weight) is not weight:
        return False
    if bias is not None and (found.get(bias) is not bias or not is_row(bias, found, rank=2)):
        return False
    if node.op_type == "Conv":
        return attribute(node, "group", 1) == 1
    if node.op_type == "Gemm":
        beta = node.attributes.get("beta")
        return attribute(node, "transA", 0) == 0 and (beta is None or beta.as_float() == 1.0)
    return weight.shape is not None and len(weight.shape) == 2


def _area(node: ir.Node) -> list[int] | None:
    """Spatial axes of the input of a convolution."""
    assert node.inputs[0] is not None and node.inputs[0].shape is not None
    axes = [axis for axis in node.inputs[0].shape[2:] if isinstance(axis, int)]
    return axes if len(axes) == len(node.inputs[0].shape) - 2 else None


def _axis(value: ir.Value, i: int) -> int | None:
    axis = None if value.shape is None else value.shape[i]
    return axis if isinstance(axis, int) else None


def _channel_axis(node: ir.Node) -> int:
    """Axis of the input channels in the weight of ``node``."""
    return 1 if node.op_type == "Conv" or attribute(node, "transB", 0) else 0


def _blocks(node: ir.Node, sizes: Sequence[int]) -> list[ir.Value]:
    """The weight of ``node`` cut along its input channels."""
    graph, axis = model_graph(node), initializer(model_graph(node), [_channel_axis(node)])
    ends = list(accumulate(sizes, initial=0))
    return [
        add(node, "Slice", [node.inputs[1], initializer(graph, [a]), initializer(graph, [b]), axis])
        for a, b in pairwise(ends)
    ]


def _joined(node: ir.Node, values: Sequence[ir.Value], axis: int) -> ir.Value:
    return values[0] if len(values) == 1 else add(node, "Concat", values, {"axis": axis})


def _apply(
    node: ir.Node,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None = None,
    like: ir.Value | None = None,
) -> ir.Value:
    """The operator of ``node`` on other operands."""
    inputs = [x, weight] if bias is None else [x, weight, bias]
    return add(node, node.op_type, inputs, node.attributes, like)
