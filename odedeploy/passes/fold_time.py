"""What depends on time alone is taken out of the work done per input.

After unrolling, time is a constant, but models spread it over the batch and concatenate it to the
state. A value is *uniform* when it is a constant spread over its shape; the constant is its row.
With W split by input channel into (W_y, W_u), a linear operator gives

    op(concat(y, u); W, b) = op(y; W_y) + op(row; W_u, b)

where the second term is a constant, exact with zero padding and for every batch size. Runtimes
fold it when they load the model. The weights stay as they are in the file; W_y and W_u are slices.
"""

from __future__ import annotations

import onnx_ir as ir

from odedeploy.passes.rewiring import add, attribute, forward, initializer, same_shape
from odedeploy.passes.uniform import ELEMENTWISE, Rows, rows

LINEAR = {"Conv": 1, "Gemm": 1, "MatMul": 0}
"""Operators with their weights' axis of input channels; see ``_channel_axis``."""


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
    """op(concat(y, u); W, b) → op(y; W_y) + op(row; W_u, b)."""
    parts = _parts(node)
    weight = node.inputs[1]
    if parts is None or weight is None or found.get(weight) is not weight:
        return False
    uniform = [part for part in parts if part in found]
    kept = [part for part in parts if part not in found]
    sizes = [_channels(part) for part in parts]
    area = _area(node, kept)
    if not uniform or not kept or None in sizes or area is None or not _splittable(node, found):
        return False
    channels = [size for size in sizes if size is not None]
    blocks = _blocks(node, weight, channels)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    maps = [_spread(node, found[u], [1, channels[parts.index(u)], *area]) for u in uniform]
    pick = [blocks[parts.index(u)] for u in uniform], [blocks[parts.index(y)] for y in kept]
    at_rows = _apply(node, _concat(node, maps, 1), _joined(node, pick[0]), bias)
    state, own = _concat(node, kept, 1), _joined(node, pick[1])
    output = node.outputs[0]
    if node.op_type == "Gemm":
        result = _apply(node, state, own, at_rows)
        result.type, result.shape = output.type, output.shape
    else:
        result = add(node, "Add", [_apply(node, state, own, None), at_rows], like=output)
    forward(node, output, result)
    return True


def _parts(node: ir.Node) -> list[ir.Value] | None:
    """What the input of ``node`` concatenates along its channels, each once."""
    concat = None if node.inputs[0] is None else node.inputs[0].producer()
    if concat is None or concat.op_type != "Concat" or concat.domain:
        return None
    shape = concat.outputs[0].shape
    axis = attribute(concat, "axis", 0)
    if shape is None or axis % len(shape) != 1 or (node.op_type != "Conv" and len(shape) != 2):
        return None
    parts = [part for part in concat.inputs if part is not None]
    return parts if len(set(parts)) == len(parts) else None
