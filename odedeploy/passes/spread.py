"""One constant per channel is spread over the channel's places, where these are few.

onnxruntime broadcasts (C, 1, 1) against (batch, C, h, w) one channel at a time, and (1, C, h, w)
one sample at a time: on one core a normalisation of (64, 64, 6, 6) and what follows it takes 0.7
of the time so, of (64, 64, 13, 13) 0.95, of (64, 64, 26, 26) as long.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from odedeploy.passes.rewiring import add, initializer, model_graph
from odedeploy.passes.uniform import rows

PLACES = 100
"""Most places of a channel."""

OPERATORS = frozenset(("Add", "Sub", "Mul", "Div"))


def run(model: ir.Model) -> bool:
    """Expand constants of shape (C, 1, …) beside values of static shape (·, C, …).

    The file holds the constants as before, runtimes expand them when they load the model. Leaves
    values bit for bit.
    """
    found = rows(model.graph)
    changed = False
    for node in list(model.graph):
        if node.domain or node.op_type not in OPERATORS:
            continue
        if any(value is None or found.get(value) is value for value in node.outputs):
            continue
        for i, value in enumerate(node.inputs):
            if value is not None and found.get(value) is value:
                changed |= _spread(node, i, value)
    return changed


def _spread(node: ir.Node, i: int, value: ir.Value) -> bool:
    shape = node.outputs[0].shape
    if shape is None or len(shape) < 3 or value.shape is None:
        return False
    places = [axis for axis in shape[2:] if isinstance(axis, int)]
    given = [1] * (len(shape) - len(value.shape)) + list(value.shape)
    if len(places) < len(shape) - 2 or not 1 < math.prod(places) <= PLACES:
        return False
    if given != [1, shape[1]] + [1] * len(places) or not isinstance(shape[1], int):
        return False
    target = initializer(model_graph(node), [1, shape[1], *places])
    whole = add(node, "Expand", [value, target])
    whole.type, whole.shape = value.type, ir.Shape([1, shape[1], *places])
    node.replace_input_with(i, whole)
    return True
