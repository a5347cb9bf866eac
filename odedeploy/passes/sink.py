"""Weights live in the body of the loop that reads them.

onnxruntime lays out convolution weights for the processor only where they are constants of the
graph that reads them; on one core a convolutional body is 20–25 % faster so.
"""

from __future__ import annotations

import onnx_ir as ir

SMALL = 1024
"""Elements up to which a constant that several graphs read is copied."""


def run(model: ir.Model) -> bool:
    """Move every initializer that one body alone reads into it, and copy small ones to all bodies.

    Large ones with several readers stay where they are, stored once. Leaves values bit for bit.
    """
    moved = False
    for value in list(model.graph.initializers.values()):
        bodies = {use.node.graph for use in value.uses()} - {model.graph}
        if value.is_graph_input() or value.const_value is None or not bodies:
            continue
        outside = any(use.node.graph is model.graph for use in value.uses())
        elsewhere = outside or value.is_graph_output()
        if value.const_value.size > SMALL and (elsewhere or len(bodies) > 1):
            continue
        for body in bodies:
            if isinstance(body, ir.Graph):
                _copy(value, body)
                moved = True
        if not elsewhere:
            del model.graph.initializers[value.name or ""]
    return moved


def _copy(value: ir.Value, body: ir.Graph) -> None:
    """Let ``body`` read an initializer of its own."""
    own = ir.Value(
        name=f"{body.name}.{value.name}",
        type=value.type,
        shape=value.shape,
        const_value=value.const_value,
    )
    body.register_initializer(own)
    for node, place in list(value.uses()):
        if node.graph is body:
            node.replace_input_with(place, own)
