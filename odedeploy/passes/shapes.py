"""Shapes that are known are written down, not computed."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from odedeploy.passes.rewiring import constant, initializer


def run(model: ir.Model) -> bool:
    """Infer shapes, and give a Reshape whose result is known a constant target.

    An axis that is dynamic in the result is copied from the same axis of the input, or inferred
    when it is the only one that cannot be copied. Leaves values bit for bit.
    """
    inferred = ShapeInferencePass(check_type=False, strict_mode=False)(model).modified
    written = [_write_target(node, model.graph) for node in model.graph if _computed(node)]
    return bool(inferred) or any(written)


def _computed(node: ir.Node) -> bool:
    return node.op_type == "Reshape" and node.domain == "" and constant(node.inputs[1]) is None


def _write_target(node: ir.Node, graph: ir.Graph) -> bool:
    target = _target(node)
    if target is None:
        return False
    node.replace_input_with(1, initializer(graph, target))
    node.attributes.pop("allowzero", None)
    return True


def _target(node: ir.Node) -> list[int] | None:
    given, result = node.inputs[0], node.outputs[0].shape
    if given is None or given.shape is None or result is None:
        return None
    target: list[int] = []
    for i, axis in enumerate(result):
        copied = i < len(given.shape) and given.shape[i] == axis
        if isinstance(axis, int):
            target.append(axis)
        elif copied and axis.value is not None:
            target.append(0)
        else:
            target.append(-1)
    static_zero = any(isinstance(axis, int) and axis == 0 for axis in result)
    return None if static_zero or target.count(-1) > 1 else target
