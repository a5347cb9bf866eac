"""Constants added to the result of a linear operator are part of its bias.

    Gemm(x, W, b) + u → Gemm(x, W, b + u)        Conv(x, W, b) + u → Conv(x, W, b + u)

b + u reads constants alone, and runtimes fold it when they load the model.
"""

from __future__ import annotations

import onnx_ir as ir

from odedeploy.passes.rewiring import add, forward, initializer, model_graph, same_shape
from odedeploy.passes.uniform import Rows, combined, rows


def run(model: ir.Model) -> bool:
    """Move an addition of one constant per output channel into Gemm and Conv.

    The sum must be all that reads the operator's result. Values change by round-off only.
    """
    found = rows(model.graph)
    return any([_absorb(node, found) for node in list(model.graph) if node.op_type == "Add"])


def _absorb(node: ir.Node, found: Rows) -> bool:
    """Whether ``node`` was an addition to a linear operator's result and is gone."""
    if node.domain:
        return False
    for result, added in (node.inputs, node.inputs[::-1]):
        linear = None if result is None else result.producer()
        if added is None or result is None or linear is None or found.get(added) is not added:
            continue
        sole = len(result.uses()) == 1 and not result.is_graph_output()
        if sole and same_shape(result, node.outputs[0]) and _linear(linear, found):
            offset = _offset(node, linear, added)
            if offset is not None:
                _replace(node, linear, offset)
                return True
    return False


def _linear(node: ir.Node, found: Rows) -> bool:
    if node.domain or node.op_type not in ("Gemm", "Conv"):
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    beta = node.attributes.get("beta")
    constant = bias is None or found.get(bias) is bias
    return constant and (bias is None or beta is None or beta.as_float() == 1.0)


def _offset(node: ir.Node, linear: ir.Node, added: ir.Value) -> ir.Value | None:
    """``added`` in the shape of a bias; None when it is not one number per output channel."""
    out, graph = linear.outputs[0].shape, model_graph(node)
    assert out is not None and added.shape is not None
    channels, shape = out[1], [1] * (len(out) - len(added.shape)) + list(added.shape)
    per_channel = [1, channels] + [1] * (len(out) - 2)
    if not isinstance(channels, int) or shape not in (per_channel, [1] * len(out)):
        return None
    flat = initializer(graph, [1 if shape != per_channel else channels])
    offset = add(node, "Reshape", [added, flat])
    if shape != per_channel:
        offset = add(node, "Expand", [offset, initializer(graph, [channels])])
    offset.type, offset.shape = added.type, ir.Shape([channels])
    return offset


def _replace(node: ir.Node, linear: ir.Node, offset: ir.Value) -> None:
    bias = linear.inputs[2] if len(linear.inputs) > 2 else None
    if bias is not None:
        offset = combined(node, "Add", [bias, offset])
    attributes = {k: v for k, v in linear.attributes.items() if k != "beta"}
    output = node.outputs[0]
    inputs = [*linear.inputs[:2], offset]
    forward(node, output, add(node, linear.op_type, inputs, attributes, like=output))
    graph = model_graph(node)
    graph.remove(node, safe=True)
    graph.remove(linear, safe=True)
