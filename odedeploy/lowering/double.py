"""An ODE graph in float64, for reference solves in onnxruntime.

Weights, inputs, states and constants become float64. onnxruntime has no float64 kernel for a few
operators: the common ones are written in operators that have one, the others (``FLOAT32_ONLY``)
are computed in float32 between two casts, which bounds the accuracy of that model's solves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from odedeploy.errors import BadInput
from odedeploy.graph import OdeGraph

FLOAT32_ONLY = frozenset(
    "Acos Acosh Asin Asinh Atan Atanh AveragePool Celu ConvTranspose Cosh Det Erf Gelu "
    "GlobalMaxPool HardSigmoid HardSwish LRN LSTM GRU RNN Mean Mish PRelu RoiAlign Selu Sinh "
    "Softsign Tan ThresholdedRelu".split()
)
"""Operators without a float64 kernel in onnxruntime on the CPU."""

_FLOAT, _DOUBLE = ir.DataType.FLOAT, ir.DataType.DOUBLE
_END = 2**62


def widened(graph: OdeGraph) -> OdeGraph:
    """A copy of ``graph`` that computes in float64 what it computed in float32.

    Raises BadInput for a graph that traces every plan, whose times are rounded already.
    """
    if graph.trace is not None:
        raise BadInput(
            "The plans of this model are traced from PyTorch in float32; solve its reference there."
        )
    model = graph.model.clone()
    bodies: list[ir.Graph | ir.Function] = [*model.graphs()]
    for function in model.functions.values():
        bodies += [function, *function.subgraphs()]
    for body in bodies:
        for value in body.inputs:
            _widen_type(value)
        for value in getattr(body, "initializers", {}).values():
            _widen_initializer(value)
        for node in list(body):
            _widen_attributes(node)
            for value in node.outputs:
                _widen_type(value)
            _replace(node, body)
    return OdeGraph(model, graph.sites)


def _widen_type(value: ir.Value) -> None:
    if value.dtype == _FLOAT:
        value.type = ir.TensorType(_DOUBLE)


def _widen_initializer(value: ir.Value) -> None:
    tensor = value.const_value
    if tensor is not None and tensor.dtype == _FLOAT:
        value.const_value = _wide(tensor)
    _widen_type(value)


def _wide(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float64), name=tensor.name)


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        kind = attribute.type
        if kind == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == _FLOAT:
            node.attributes[name] = ir.AttrTensor(name, _wide(attribute.as_tensor()))
        elif kind == ir.AttributeType.INT and name in ("to", "dtype", "output_dtype"):
            if attribute.as_int() == _FLOAT:
                node.attributes[name] = ir.AttrInt64(name, int(_DOUBLE))
        elif node.op_type == "Constant" and name in ("value_float", "value_floats"):
            del node.attributes[name]
            array = np.asarray(attribute.value, dtype=np.float64)
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))
    if node.op_type == "ConstantOfShape" and "value" not in node.attributes:
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.zeros(1)))


def _replace(node: ir.Node, body: ir.Graph | ir.Function) -> None:
    """Write ``node`` in operators that have float64 kernels."""
    if node.domain:
        return
    writer = _Before(node, body)
    result = _WRITTEN[node.op_type](node, writer) if node.op_type in _WRITTEN else None
    if result is not None:
        output = node.outputs[0]
        result.name, result.type, result.shape = output.name, output.type, output.shape
        output.name = None
        output.replace_all_uses_with(result, replace_graph_outputs=True)
        body.remove(node, safe=True)
    elif node.op_type in FLOAT32_ONLY or node.op_type in _WRITTEN:
        _in_float32(node, writer, body)


def _in_float32(node: ir.Node, writer: _Before, body: ir.Graph | ir.Function) -> None:
    for i, value in enumerate(node.inputs):
        if value is not None and value.dtype in (_DOUBLE, None):
            node.replace_input_with(i, writer("Cast", [value], to=int(_FLOAT)))
    for value in node.outputs:
        if value.dtype != _DOUBLE:
            continue
        cast = ir.node("Cast", [value], {"to": int(_DOUBLE)})
        wide = cast.outputs[0]
        value.replace_all_uses_with(wide, replace_graph_outputs=True)
        cast.replace_input_with(0, value)
        wide.name, wide.type, wide.shape = value.name, value.type, value.shape
        value.name, value.type = f"{value.name}_float32", ir.TensorType(_FLOAT)
        body.insert_after(node, cast)


class _Before:
    """Writes nodes in front of ``node``; constants are nodes, because functions hold no weights."""

    def __init__(self, node: ir.Node, body: ir.Graph | ir.Function) -> None:
        self._node, self._body, self._count = node, body, 0

    def __call__(self, op_type: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        made = ir.node(op_type, inputs, attributes)
        made.outputs[0].name = f"{self._node.outputs[0].name}.{op_type}{self._count}"
        made.name = f"{made.outputs[0].name}/node"
        self._count += 1
        self._body.insert_before(self._node, made)
        return made.outputs[0]

    def integers(self, values: Sequence[int]) -> ir.Value:
        return self("Constant", [], value=ir.tensor(np.array(values, dtype=np.int64)))

    def number(self, value: float) -> ir.Value:
        return self("Constant", [], value=ir.tensor(np.array(value, dtype=np.float64)))


def _convolution(node: ir.Node, write: _Before) -> ir.Value | None:
    """One matrix product over the patches of the padded input; None where it is not that simple."""
    x, weight, *bias = (value for value in node.inputs if value is not None)
    grouped = node.attributes.get("group")
    if weight.shape is None or not weight.shape.is_static() or "auto_pad" in node.attributes:
        return None
    if grouped is not None and grouped.as_int() != 1:
        return None
    out, channels, *kernel = weight.shape.numpy()
    rank = len(kernel)
    pads = _ints(node, "pads", [0] * (2 * rank))
    before, after = [0, 0, *pads[:rank]], [0, 0, *pads[rank:]]
    padded = write("Pad", [x, write.integers([*before, *after])]) if any(pads) else x
    patches = list(_patches(node, write, padded, kernel))
    columns = write("Concat", patches, axis=1) if len(patches) > 1 else patches[0]
    flat = write("Reshape", [columns, write.integers([0, len(patches) * channels, -1])])
    order = [0, *range(2, rank + 2), 1]
    matrix = write("Reshape", [
        write("Transpose", [weight], perm=order), write.integers([out, len(patches) * channels]),
    ])  # fmt: skip
    product = write("MatMul", [matrix, flat])
    area = write("Shape", [patches[0]], start=2)
    shape = write("Concat", [write.integers([0, out]), area], axis=0)
    result = write("Reshape", [product, shape])
    if bias:
        column = write("Reshape", [bias[0], write.integers([out, *[1] * rank])])
        result = write("Add", [result, column])
    return result


def _patches(
    node: ir.Node, write: _Before, padded: ir.Value, kernel: Sequence[int]
) -> Iterator[ir.Value]:
    """What each place of the kernel sees, (batch, channels, *output area)."""
    rank = len(kernel)
    strides, dilations = _ints(node, "strides", [1] * rank), _ints(node, "dilations", [1] * rank)
    axes = write.integers(range(2, rank + 2))
    for place in np.ndindex(*kernel):
        starts = [d * i for d, i in zip(dilations, place, strict=True)]
        rest = [d * (k - 1 - i) for d, k, i in zip(dilations, kernel, place, strict=True)]
        bounds = write.integers(starts), write.integers([-r if r else _END for r in rest])
        yield write("Slice", [padded, *bounds, axes, write.integers(strides)])


def _instance_norm(node: ir.Node, write: _Before) -> ir.Value | None:
    x, scale, shift = (value for value in node.inputs if value is not None)
    axes = _spatial(x, write)
    if axes is None or x.shape is None:
        return None
    epsilon = node.attributes.get("epsilon")
    centred = write("Sub", [x, write("ReduceMean", [x, axes], keepdims=1)])
    variance = write("ReduceMean", [write("Mul", [centred, centred]), axes], keepdims=1)
    least = write.number(1e-5 if epsilon is None else epsilon.as_float())
    normal = write("Div", [centred, write("Sqrt", [write("Add", [variance, least])])])
    column = write.integers([-1, *[1] * (len(x.shape) - 2)])
    scaled = write("Mul", [normal, write("Reshape", [scale, column])])
    return write("Add", [scaled, write("Reshape", [shift, column])])


def _global_average(node: ir.Node, write: _Before) -> ir.Value | None:
    x = _first(node)
    axes = _spatial(x, write)
    return None if axes is None else write("ReduceMean", [x, axes], keepdims=1)


def _softplus(node: ir.Node, write: _Before) -> ir.Value | None:
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(−|x|))"""
    x = _first(node)
    small = write("Exp", [write("Neg", [write("Abs", [x])])])
    rest = write("Log", [write("Add", [small, write.number(1)])])
    return write("Add", [write("Relu", [x]), rest])


def _elu(node: ir.Node, write: _Before) -> ir.Value | None:
    """max(x, 0) + α (exp(min(x, 0)) − 1)"""
    x, alpha = _first(node), node.attributes.get("alpha")
    low = write("Exp", [write("Min", [x, write.number(0)])])
    scale = write.number(1.0 if alpha is None else alpha.as_float())
    part = write("Mul", [scale, write("Sub", [low, write.number(1)])])
    return write("Add", [write("Relu", [x]), part])


def _leaky_relu(node: ir.Node, write: _Before) -> ir.Value | None:
    x, alpha = _first(node), node.attributes.get("alpha")
    slope = write.number(0.01 if alpha is None else alpha.as_float())
    return write("Max", [x, write("Mul", [x, slope])])


def _first(node: ir.Node) -> ir.Value:
    assert node.inputs[0] is not None
    return node.inputs[0]


def _spatial(x: ir.Value, write: _Before) -> ir.Value | None:
    return None if x.shape is None else write.integers(range(2, len(x.shape)))


def _ints(node: ir.Node, name: str, default: list[int]) -> list[int]:
    found = node.attributes.get(name)
    return default if found is None else list(found.as_ints())


_WRITTEN: dict[str, Callable[[ir.Node, _Before], ir.Value | None]] = {
    "Conv": _convolution,
    "InstanceNormalization": _instance_norm,
    "GlobalAveragePool": _global_average,
    "Softplus": _softplus,
    "Elu": _elu,
    "LeakyRelu": _leaky_relu,
}
