"""Names take no room: nodes have none, values inside the model are numbered."""

from __future__ import annotations

from itertools import count

import onnx_ir as ir


def run(model: ir.Model) -> bool:
    """Number the values that nodes of the main graph compute, and drop the names of its nodes.

    At hundreds of evaluations names are half of a file. Inputs, outputs, initializers and the
    bodies of loops keep theirs. Leaves values bit for bit.
    """
    kept = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    kept |= set(model.graph.initializers)
    for node in model.graph.all_nodes():
        if node.graph is not model.graph:
            kept |= {value.name for value in (*node.inputs, *node.outputs) if value is not None}
    inner = [v for node in model.graph for v in node.outputs if not v.is_graph_output()]
    kept -= {value.name for value in inner}
    numbers = (name for name in map(_digits, count()) if name not in kept)
    changed = False
    for value in inner:
        name = next(numbers)
        changed |= value.name != name
        value.name = name
    for node in model.graph:
        changed |= bool(node.name)
        node.name = None
    return changed


def _digits(number: int) -> str:
    """``number`` in base 36."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    text = digits[number % 36]
    while number := number // 36:
        text = digits[number % 36] + text
    return text
