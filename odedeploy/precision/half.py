"""fp16 and bf16: vector fields in 16 bits, the state and all that adds to it in 32.

What flows into a field is cast on its way in, its slopes are cast on their way out, and its
weights are stored in 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from odedeploy.errors import FellShort
from odedeploy.graph import Inputs
from odedeploy.passes import constants, dead, subexpressions
from odedeploy.passes.rewiring import add
from odedeploy.precision.observed import Field, Range, field_of, observe
from odedeploy.precision.slices import compact

LARGEST = {ir.DataType.FLOAT16: 65504.0, ir.DataType.BFLOAT16: 3.3895e38}
"""Largest finite number of each."""

MARGIN = 2.0
"""What is seen must stay this factor below the largest number; other inputs may go further."""

_SINGLE = ir.DataType.FLOAT


def fp16(model: ir.Model, inputs: Inputs) -> ir.Model:
    """``model`` itself, its fields in IEEE half precision.

    Raises FellShort, with the numbers, when a value of a field comes too near the largest one.
    """
    return _narrowed(model, inputs, ir.DataType.FLOAT16)


def bf16(model: ir.Model, inputs: Inputs) -> ir.Model:
    """``model`` itself, its fields in bfloat16: the range of float32 with 8 bits of precision."""
    return _narrowed(model, inputs, ir.DataType.BFLOAT16)


def audit(seen: dict[ir.Value, Range], dtype: ir.DataType) -> float:
    """The largest magnitude along the trajectories; raises FellShort when ``dtype`` is too small.

    A trajectory that leaves the finite numbers in float32 already says nothing of ``dtype``.
    """
    finite = {value: found for value, found in seen.items() if found.finite}
    if not finite:
        return 0.0
    worst = max(finite, key=lambda value: finite[value].magnitude)
    largest, limit = finite[worst].magnitude, LARGEST[dtype] / MARGIN
    if largest > limit:
        node = worst.producer()
        raise FellShort(
            f"A value of the vector field reaches {largest:.3g} along the trajectories (the result "
            f"of its {'input' if node is None else node.op_type}), above {limit:.3g}, which "
            f"{dtype.name.lower()} holds with a margin of {MARGIN:g}; take bf16 or fp32."
        )
    return largest


def _narrowed(model: ir.Model, inputs: Inputs, dtype: ir.DataType) -> ir.Model:
    field = field_of(model)
    inside = {value for node in field.nodes for value in node.outputs}
    entering = _entering(field, inside)
    weights = [v for v in entering if field.is_constant(v) and _is_weight(v, field)]
    watched = [v for v in (*inside, *entering) if v.dtype == _SINGLE and v not in weights]
    seen, arrays = observe(model, inputs, watched, weights)
    audit(seen, dtype)
    for value in inside:
        if value.dtype == _SINGLE or value.dtype is None:
            value.type = ir.TensorType(dtype)
    leaving = [value for value in inside if value.dtype == dtype and _leaves(value, field)]
    for node in field.nodes:
        _enter(node, inside, {v: arrays[v] for v in weights}, dtype, model.graph)
    for value in leaving:
        _leave(value, field, model.graph)
    for each in (constants, subexpressions, dead):
        each.run(model)
    compact(model)
    return model


def _entering(field: Field, inside: set[ir.Value]) -> list[ir.Value]:
    """float32 values that fields read and do not compute."""
    reads = (v for node in field.nodes for v in node.inputs if v is not None and v not in inside)
    return [value for value in dict.fromkeys(reads) if value.dtype == _SINGLE]


def _is_weight(value: ir.Value, field: Field) -> bool:
    """Whether ``value`` is the matrix or kernel of a linear operator."""
    nodes = set(field.nodes)
    return any(
        use.idx == 1 and use.node in nodes and use.node.op_type in ("Conv", "Gemm", "MatMul")
        for use in value.uses()
    )


def _leaves(value: ir.Value, field: Field) -> bool:
    nodes = set(field.nodes)
    return value.is_graph_output() or any(use.node not in nodes for use in value.uses())


def _enter(
    node: ir.Node,
    inside: set[ir.Value],
    weights: dict[ir.Value, np.ndarray],
    dtype: ir.DataType,
    graph: ir.Graph,
) -> None:
    """Let ``node`` read and write ``dtype``."""
    for i, value in enumerate(node.inputs):
        if value is None or value in inside or value.dtype != _SINGLE:
            continue
        if value in weights:
            node.replace_input_with(i, _stored(value, weights[value], dtype, graph))
        else:
            cast = add(node, "Cast", [value], {"to": int(dtype)})
            cast.type, cast.shape = ir.TensorType(dtype), value.shape
            node.replace_input_with(i, cast)
    for name in ("to", "dtype", "output_dtype"):
        kind = node.attributes.get(name)
        if kind is not None and kind.as_int() == _SINGLE:
            node.attributes[name] = ir.AttrInt64(name, int(dtype))


def _stored(
    value: ir.Value, array: np.ndarray, dtype: ir.DataType, graph: ir.Graph
) -> ir.Value:
    """``value`` as an initializer of ``dtype``, one for all that read it."""
    name = f"{value.name}.{dtype.name.lower()}"
    if name not in graph.initializers:
        tensor = ir.tensor(array.astype(dtype.numpy()), dtype=dtype, name=name)
        graph.register_initializer(
            ir.Value(
                name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape),
                const_value=tensor,
            )  # fmt: skip
        )
    return graph.initializers[name]


def _leave(value: ir.Value, field: Field, graph: ir.Graph) -> None:
    """Cast ``value`` back to float32 for all readers outside the field."""
    producer, nodes = value.producer(), set(field.nodes)
    assert producer is not None
    outside = [use for use in value.uses() if use.node not in nodes]
    cast = ir.node("Cast", [value], {"to": int(_SINGLE)})
    wide = cast.outputs[0]
    wide.type, wide.shape = ir.TensorType(_SINGLE), value.shape
    graph.insert_after(producer, cast)
    for use in outside:
        use.node.replace_input_with(use.idx, wide)
    _rename_outputs(value, wide, graph.outputs)


def _rename_outputs(old: ir.Value, new: ir.Value, outputs: Iterable[ir.Value]) -> None:
    places = [i for i, output in enumerate(outputs) if output is old]
    if places:
        old.name, new.name = f"{old.name}.narrow", old.name
        graph = new.graph
        assert isinstance(graph, ir.Graph)
        for i in places:
            graph.outputs[i] = new
