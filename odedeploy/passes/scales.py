"""Positive factors in front of a rectifier move behind it, into the next operator's weight.

With g > 0 per channel, relu(g·x + b) = g·relu(x + b/g), and what is linear in its input takes g
into its weight. That saves the product in every normalisation → ReLU → convolution. The weight
stays as it is in the file; its product with g reads constants alone, is written once for all
evaluations, and runtimes fold it when they load the model.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from odedeploy.passes.rewiring import add, attribute, constant, forward, initializer, model_graph
from odedeploy.passes.uniform import Rows, combined, rows

SMALLEST = 1e-6
"""Least factor, so that b/g stays far from overflow."""


class _Chain(NamedTuple):
    """Mul by ``factor`` → Add of ``shift``, if there is one → ReLU → ``linear``."""

    product: ir.Node
    factor: ir.Value
    sum: ir.Node | None
    shift: ir.Value | None
    rectifier: ir.Node
    linear: ir.Node


def run(model: ir.Model) -> bool:
    """Move positive constant factors, one a channel, through ReLU into Conv and Gemm.

    Every value on the way must have one reader. Values change by round-off only.
    """
    found = rows(model.graph)
    chains = [_chain(node, found) for node in model.graph if node.op_type == "Relu"]
    written: dict[tuple[ir.Value, ir.Value], ir.Value] = {}
    for chain in chains:
        if chain is not None:
            _move(chain, written)
    return any(chains)


def _chain(rectifier: ir.Node, found: Rows) -> _Chain | None:
    uses = list(rectifier.outputs[0].uses())
    if rectifier.domain or len(uses) != 1 or rectifier.outputs[0].is_graph_output():
        return None
    linear, place = uses[0]
    if place != 0 or not _takes_factors(linear, found):
        return None
    value, shift, total = rectifier.inputs[0], None, _sole(rectifier.inputs[0], "Add")
    if total is not None:
        value, shift = _constant_operand(total, found)
    product = _sole(value, "Mul")
    if product is None or (total is not None and shift is None):
        return None
    _, factor = _constant_operand(product, found)
    if factor is None or not _per_channel(factor, rectifier.outputs[0]):
        return None
    numbers = constant(factor)
    if numbers is None or not np.all(np.isfinite(numbers) & (numbers > SMALLEST)):
        return None
    return _Chain(product, factor, total, shift, rectifier, linear)


def _takes_factors(node: ir.Node, found: Rows) -> bool:
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if node.domain or weight is None or found.get(weight) is not weight:
        return False
    if node.op_type == "Conv":
        return attribute(node, "group", 1) == 1
    return node.op_type == "Gemm" and attribute(node, "transA", 0) == 0


def _sole(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The ``op_type`` node that computes ``value``, when nothing else reads it."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.domain or node.op_type != op_type:
        return None
    return node if len(value.uses()) == 1 and not value.is_graph_output() else None


def _constant_operand(node: ir.Node, found: Rows) -> tuple[ir.Value | None, ir.Value | None]:
    """The moving and the constant operand of a binary node; the latter None if there is none."""
    a, b = node.inputs
    for moving, fixed in ((a, b), (b, a)):
        if fixed is not None and found.get(fixed) is fixed:
            return moving, fixed
    return None, None


def _per_channel(factor: ir.Value, like: ir.Value) -> bool:
    """Whether ``factor`` has one number for each channel (axis 1) of ``like``."""
    if factor.shape is None or like.shape is None or len(like.shape) < 2:
        return False
    rank, channels = len(like.shape), like.shape[1]
    shape = [1] * (rank - len(factor.shape)) + list(factor.shape)
    return isinstance(channels, int) and shape == [1, channels] + [1] * (rank - 2)


def _move(chain: _Chain, written: dict[tuple[ir.Value, ir.Value], ir.Value]) -> None:
    """Rewrite one chain; ``written`` holds the scaled weights that exist already."""
    node, graph = chain.product, model_graph(chain.product)
    moving = next(v for v in node.inputs if v is not chain.factor)
    assert moving is not None
    forward(node, node.outputs[0], moving)
    if chain.sum is not None and chain.shift is not None:
        place = next(i for i, v in enumerate(chain.sum.inputs) if v is chain.shift)
        quotient = combined(node, "Div", [chain.shift, chain.factor])
        chain.sum.replace_input_with(place, quotient)
    weight = chain.linear.inputs[1]
    assert weight is not None
    if (weight, chain.factor) not in written:
        written[weight, chain.factor] = _scaled(chain, weight)
    chain.linear.replace_input_with(1, written[weight, chain.factor])
    graph.remove(node, safe=True)


def _scaled(chain: _Chain, weight: ir.Value) -> ir.Value:
    """``weight`` times the factors along its input channels."""
    linear, graph = chain.linear, model_graph(chain.linear)
    assert weight.shape is not None
    shape = [1] * len(weight.shape)
    shape[1 if linear.op_type == "Conv" or attribute(linear, "transB", 0) else 0] = -1
    along = add(linear, "Reshape", [chain.factor, initializer(graph, shape)])
    return add(linear, "Mul", [weight, along], like=weight)
