"""A number spread over one channel is a factor of what a linear operator makes of it.

    op(expand(t); W, b) = t · op(expand(1); W) + b

In the body of a loop, where t is no constant, op(expand(1); W) still is one: a map for all times.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from odedeploy.passes.rewiring import add, attribute, constant, forward, model_graph


def run(model: ir.Model) -> bool:
    """Write Conv, Gemm and MatMul of an expanded run-time number as a multiple of a constant.

    Constants are left to be folded as they are. Values change by round-off only.
    """
    return any([_factored(node) for node in list(model.graph) if not node.domain])


def _factored(node: ir.Node) -> bool:
    spread = None if not node.inputs or node.inputs[0] is None else node.inputs[0].producer()
    if node.op_type not in ("Conv", "Gemm", "MatMul") or not _is_spread(spread):
        return False
    assert spread is not None
    number, target = spread.inputs[0], spread.inputs[1]
    weight, *rest = node.inputs[1:]
    bias = rest[0] if rest else None
    if number is None or constant(weight) is None and not _sliced(weight):
        return False
    beta = node.attributes.get("beta")
    if attribute(node, "transA", 0) or (beta is not None and beta.as_float() != 1.0):
        return False
    one = add(spread, "Expand", [_one(node, number), target], like=spread.outputs[0])
    output = node.outputs[0]
    whole = add(node, node.op_type, [one, weight], node.attributes, like=output)
    result = add(node, "Mul", [whole, number], like=output)
    if bias is not None:
        result = add(node, "Add", [result, _column(node, bias)], like=output)
    forward(node, output, result)
    model_graph(node).remove(node, safe=True)
    return True


def _is_spread(node: ir.Node | None) -> bool:
    """Whether ``node`` expands a run-time number to a constant shape."""
    if node is None or node.op_type != "Expand" or node.domain or constant(node.inputs[1]) is None:
        return False
    number = node.inputs[0]
    return (
        number is not None
        and number.shape is not None
        and len(number.shape) == 0
        and constant(number) is None
    )


def _sliced(weight: ir.Value | None) -> bool:
    """Whether ``weight`` is a part of a constant."""
    node = None if weight is None else weight.producer()
    return node is not None and node.op_type == "Slice" and constant(node.inputs[0]) is not None


def _one(node: ir.Node, like: ir.Value) -> ir.Value:
    graph, name = model_graph(node), f"odedeploy.one.{like.dtype}"
    if name not in graph.initializers:
        assert like.dtype is not None
        value = ir.Value(
            name=name,
            type=ir.TensorType(like.dtype),
            shape=ir.Shape([]),
            const_value=ir.tensor(np.array(1, dtype=like.dtype.numpy()), like.dtype, name),
        )
        graph.register_initializer(value)
    return graph.initializers[name]


def _column(node: ir.Node, bias: ir.Value) -> ir.Value:
    """The bias of a convolution along its channels; another broadcasts as it is."""
    if node.op_type != "Conv":
        return bias
    shape = node.outputs[0].shape
    assert shape is not None or node.inputs[1] is not None
    weight = node.inputs[1]
    rank = len(weight.shape) if weight is not None and weight.shape is not None else 4
    graph, name = model_graph(node), f"odedeploy.channels.{rank}"
    if name not in graph.initializers:
        array = np.array([-1] + [1] * (rank - 2))
        value = ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.INT64),
            shape=ir.Shape(array.shape),
            const_value=ir.tensor(array, name=name),
        )
        graph.register_initializer(value)
    return add(node, "Reshape", [bias, graph.initializers[name]])
