"""int8: the products of a vector field with 8-bit activations and weights.

Quantised are Conv, Gemm and MatMul of the fields, by QuantizeLinear/DequantizeLinear pairs around
them: activations unsigned with one range per evaluation, weights signed with one scale per output
channel, biases in 32 bits. Sums and products of the solver are never quantised: with them the
error is some twenty times larger.

Weights use 7 of their 8 bits. Processors without VNNI add pairs of products in 16 bits, which
saturate with the eighth, so that a file would answer differently from one machine to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from odedeploy.errors import BadInput
from odedeploy.graph import Inputs
from odedeploy.passes import constants, dead, subexpressions
from odedeploy.passes.rewiring import add, attribute
from odedeploy.precision.observed import Field, Range, field_of, observe
from odedeploy.precision.slices import compact

LEVELS = 255
"""Steps of an activation's range."""

WEIGHT = 63
"""Largest quantised weight."""


def int8(model: ir.Model, inputs: Inputs) -> ir.Model:
    """``model`` itself, its fields in int8; as it was when a trajectory leaves the finite numbers.

    Raises BadInput where a vector field cannot be reached or has no such product.
    """
    field = field_of(model)
    nodes = [node for node in field.nodes if _quantisable(node, field)]
    if not nodes:
        raise BadInput(
            "A vector field of this model has no Conv, Gemm or MatMul with weights that int8 could "
            "hold; export it in fp32."
        )
    seen, arrays = observe(
        model,
        inputs,
        [v for node in nodes for v in (node.inputs[0], node.outputs[0]) if v is not None],
        [v for node in nodes for v in node.inputs[1:] if v is not None],
    )
    if all(found.finite for found in seen.values()):
        writer = _Writer(model.graph, seen, arrays)
        for node in nodes:
            writer.quantise(node)
        for each in (constants, subexpressions, dead):
            each.run(model)
        compact(model)
    return model


def _quantisable(node: ir.Node, field: Field) -> bool:
    if node.domain or len(node.inputs) < 2 or field.is_constant(node.inputs[0]):
        return False
    if not all(value is None or field.is_constant(value) for value in node.inputs[1:]):
        return False
    weight = node.inputs[1]
    rank = None if weight is None or weight.shape is None else len(weight.shape)
    if node.op_type == "Conv":
        return True
    if node.op_type == "Gemm":
        factors = (node.attributes.get(name) for name in ("alpha", "beta"))
        plain = all(factor is None or factor.as_float() == 1.0 for factor in factors)
        return plain and attribute(node, "transA", 0) == 0
    return node.op_type == "MatMul" and rank == 2


@dataclass
class _Quantised:
    """A weight in 8 bits: scale per channel along ``axis`` and the value that stands for it."""

    scales: np.ndarray
    axis: int
    value: ir.Value


class _Writer:
    """Puts pairs around nodes; a weight is quantised once, however often it is used."""

    def __init__(
        self, graph: ir.Graph, seen: dict[ir.Value, Range], arrays: dict[ir.Value, np.ndarray]
    ) -> None:
        self._graph, self._seen, self._arrays = graph, seen, arrays
        self._weights: dict[tuple[ir.Value, int], _Quantised] = {}
        self._count = 0

    def quantise(self, node: ir.Node) -> None:
        x, weight = node.inputs[0], node.inputs[1]
        assert x is not None and weight is not None
        last = node.op_type == "MatMul" or (
            node.op_type == "Gemm" and not attribute(node, "transB", 0)
        )
        held = self._weight(node, weight, int(last))
        step = _step(self._seen[x])
        node.replace_input_with(0, self._pair(node, x, self._seen[x]))
        node.replace_input_with(1, held.value)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None:
            node.replace_input_with(2, self._bias(node, self._arrays[bias], step * held.scales))
        if node.op_type == "Conv":
            self._output(node)

    def _output(self, node: ir.Node) -> None:
        """A pair behind ``node``, without which onnxruntime computes a convolution in float32."""
        output = node.outputs[0]
        after = ir.node("Identity", [output])
        self._graph.insert_after(node, after)
        uses = [use for use in output.uses() if use.node is not after]
        paired = self._pair(after, output, self._seen[output])
        for use in uses:
            use.node.replace_input_with(use.idx, paired)
        self._graph.remove(after, safe=True)

    def _pair(self, before: ir.Node, value: ir.Value, seen: Range) -> ir.Value:
        scale = self._constant(np.float32(_step(seen)))
        zero = self._constant(np.uint8(round(-seen.low / _step(seen))))
        small = add(before, "QuantizeLinear", [value, scale, zero])
        return add(before, "DequantizeLinear", [small, scale, zero], like=value)

    def _weight(self, node: ir.Node, weight: ir.Value, axis: int) -> _Quantised:
        if (weight, axis) not in self._weights:
            array = self._arrays[weight]
            others = tuple(i for i in range(array.ndim) if i != axis)
            scales = np.maximum(np.abs(array).max(others), np.finfo(np.float32).tiny * 1e6) / WEIGHT
            along = scales.reshape([-1 if i == axis else 1 for i in range(array.ndim)])
            small = np.clip(np.rint(array / along), -WEIGHT, WEIGHT).astype(np.int8)
            value = self._dequantised(node, small, scales, axis)
            self._weights[weight, axis] = _Quantised(scales, axis, value)
        return self._weights[weight, axis]

    def _bias(self, node: ir.Node, bias: np.ndarray, scales: np.ndarray) -> ir.Value:
        flat = np.broadcast_to(bias.reshape(-1), scales.shape)
        limit = np.iinfo(np.int32).max / 2
        small = np.clip(np.rint(flat / scales), -limit, limit).astype(np.int32)
        return self._dequantised(node, small, scales, 0)

    def _dequantised(
        self, node: ir.Node, small: np.ndarray, scales: np.ndarray, axis: int
    ) -> ir.Value:
        inputs = [
            self._constant(small),
            self._constant(scales.astype(np.float32)),
            self._constant(np.zeros(scales.shape, small.dtype)),
        ]
        made = ir.node("DequantizeLinear", inputs, {"axis": axis})
        made.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        made.outputs[0].shape = ir.Shape(small.shape)
        self._graph.insert_before(self._graph[0], made)
        return made.outputs[0]

    def _constant(self, array: np.ndarray | np.generic) -> ir.Value:
        """An initializer; equal ones are merged afterwards by name of their content."""
        array = np.asarray(array)
        name = f"odedeploy.int8.{self._count}"
        self._count += 1
        value = ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            shape=ir.Shape(array.shape),
            const_value=ir.tensor(array, name=name),
        )
        self._graph.register_initializer(value)
        return value


def _step(seen: Range) -> float:
    """Width of one level of an activation."""
    return max(seen.high - seen.low, 1e-30) / LEVELS
