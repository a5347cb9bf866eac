"""Weights of which only slices are left are stored as these."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from odedeploy.passes.rewiring import constant, integers


def compact(model: ir.Model) -> None:
    """Compute every Slice of a weight whose readers are slices and together smaller than it.

    A weight that was split by its input channels is such once its larger part is stored in another
    precision. Leaves values bit for bit.
    """
    for value in list(model.graph.initializers.values()):
        nodes = [use.node for use in value.uses() if use.idx == 0]
        array = constant(value)
        if array is None or value.is_graph_output() or len(nodes) < len(value.uses()):
            continue
        slices = [_slice(array, node) for node in nodes]
        kept = [part for part in slices if part is not None]
        if not kept or len(kept) < len(nodes) or sum(p.size for p in kept) >= array.size:
            continue
        for i, (node, part) in enumerate(zip(nodes, kept, strict=True)):
            name = f"{value.name}.part{i}"
            output = node.outputs[0]
            stored = ir.Value(
                name=name,
                type=value.type,
                shape=ir.Shape(part.shape),
                const_value=ir.tensor(np.ascontiguousarray(part), dtype=value.dtype, name=name),
            )
            model.graph.register_initializer(stored)
            output.replace_all_uses_with(stored)
            model.graph.remove(node, safe=True)
        del model.graph.initializers[value.name or ""]


def _slice(array: np.ndarray, node: ir.Node) -> np.ndarray | None:
    """What a Slice with constant bounds takes of ``array``; None for anything else."""
    if node.op_type != "Slice" or node.domain or node.outputs[0].is_graph_output():
        return None
    given = [integers(value) for value in node.inputs[1:]]
    if len(given) < 3 or any(numbers is None for numbers in given):
        return None
    starts, ends, axes, *rest = given
    steps = rest[0] if rest else [1] * len(axes or [])
    chosen = [slice(None)] * array.ndim
    bounds = zip(starts or [], ends or [], axes or [], steps or [], strict=True)
    for start, end, axis, step in bounds:
        chosen[axis] = slice(start, end, step)
    part: np.ndarray = array[tuple(chosen)]
    return part
