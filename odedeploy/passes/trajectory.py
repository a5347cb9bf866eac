"""States that are picked out of a trajectory are used directly."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from odedeploy.passes.rewiring import add, attribute, constant, forward, integers, model_graph

Slices = list[ir.Value]
"""The states of a trajectory, each of shape (1, *state)."""


def run(model: ir.Model) -> bool:
    """Let constant Gather, Slice, Split and Squeeze on the time axis read the states themselves.

    A trajectory is a Concat on axis 0 of states behind Unsqueeze. Times that nobody else picks
    are dead afterwards. Leaves values bit for bit.
    """
    return any([_forward(node) for node in list(model.graph) if node.op_type in _PICKS])


def _forward(node: ir.Node) -> bool:
    slices = _slices(node.inputs[0])
    picked = None if slices is None or node.domain else _PICKS[node.op_type](node, slices)
    if picked is None:
        return False
    for output, new in zip(node.outputs, picked, strict=True):
        forward(node, output, new)
    model_graph(node).remove(node, safe=True)
    return True


def _slices(value: ir.Value | None) -> Slices | None:
    node = None if value is None else value.producer()
    if value is None or node is None or node.domain:
        return None
    if _state(value) is not None:
        return [value]
    if node.op_type != "Concat" or attribute(node, "axis", 1) != 0:
        return None
    parts = [part for part in node.inputs if part is not None]
    return parts if all(_state(part) is not None for part in parts) else None


def _state(part: ir.Value) -> ir.Value | None:
    node = part.producer()
    if node is None or node.op_type != "Unsqueeze" or integers(node.inputs[1]) != [0]:
        return None
    return node.inputs[0]


def _gather(node: ir.Node, slices: Slices) -> list[ir.Value] | None:
    index = constant(node.inputs[1])
    if index is None or attribute(node, "axis", 0) != 0 or index.ndim > 1:
        return None
    if index.ndim == 0:
        state = _state(slices[int(index)])
        return None if state is None else [state]
    return _stacked(node, [slices[int(i)] for i in index])


def _slice(node: ir.Node, slices: Slices) -> list[ir.Value] | None:
    starts, ends, axes, steps = (integers(v) for v in (*node.inputs[1:], None, None)[:4])
    if len(node.inputs) > 3 and node.inputs[3] is not None and axes is None:
        return None
    if len(node.inputs) > 4 and node.inputs[4] is not None and steps is None:
        return None
    if starts is None or ends is None or len(starts) != 1 or (axes or [0]) != [0]:
        return None
    return _stacked(node, slices[starts[0] : ends[0] : (steps or [1])[0]])


def _split(node: ir.Node, slices: Slices) -> list[ir.Value] | None:
    n = len(node.outputs)
    given = node.inputs[1] if len(node.inputs) > 1 else None
    largest = -(-len(slices) // n)
    sizes = integers(given) if given is not None else [largest] * n
    if sizes is None or attribute(node, "axis", 0) != 0:
        return None
    parts, start = list[ir.Value](), 0
    for size in sizes:
        part = _stacked(node, slices[start : start + size])
        if part is None:
            return None
        parts += part
        start += size
    return parts


def _squeeze(node: ir.Node, slices: Slices) -> list[ir.Value] | None:
    axes = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    state = _state(slices[0]) if axes == [0] and len(slices) == 1 else None
    return None if state is None else [state]


def _stacked(node: ir.Node, slices: Sequence[ir.Value]) -> list[ir.Value] | None:
    """``slices`` as one trajectory again."""
    if not slices:
        return None
    if len(slices) == 1:
        return [slices[0]]
    return [add(node, "Concat", slices, {"axis": 0})]


_PICKS = {"Gather": _gather, "Slice": _slice, "Split": _split, "Squeeze": _squeeze}
