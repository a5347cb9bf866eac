"""Operators that return their input are gone."""

from __future__ import annotations

import onnx_ir as ir

from odedeploy.passes.rewiring import forward, same_shape


def run(model: ir.Model) -> bool:
    """Drop Identity, and Reshape, Expand and Cast whose result is statically their input.

    Shapes must be known, dynamic axes by name. An Identity between an output of the model and an
    input, a weight or another output stays. Leaves values bit for bit.
    """
    dropped = False
    for node in list(model.graph.all_nodes()):
        if node.domain == "" and _returns_its_input(node):
            source, output = node.inputs[0], node.outputs[0]
            assert source is not None and node.graph is not None
            forward(node, output, source)
            node.graph.remove(node, safe=True)
            dropped = True
    return dropped


def _returns_its_input(node: ir.Node) -> bool:
    source = node.inputs[0] if node.inputs else None
    if source is None:
        return False
    output = node.outputs[0]
    pinned = source.is_graph_input() or source.is_graph_output() or source.is_initializer()
    if output.is_graph_output() and (pinned or source.graph is not node.graph):
        return False
    if node.op_type == "Cast":
        return source.dtype is not None and source.dtype == node.attributes["to"].as_int()
    if node.op_type in ("Reshape", "Expand"):
        return same_shape(source, output)
    return node.op_type == "Identity"
