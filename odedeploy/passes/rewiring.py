"""What passes share: reading constants and replacing values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The elements of an initializer or Constant node; None for anything computed or given."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def integers(value: ir.Value | None) -> list[int] | None:
    """The elements of a constant integer tensor of any rank, flat."""
    array = constant(value)
    return None if array is None else [int(i) for i in array.reshape(-1)]


def attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute of ``node``."""
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def same_shape(a: ir.Value | None, b: ir.Value | None) -> bool:
    """Whether both shapes are known and equal, dynamic axes by their names."""
    if a is None or b is None or a.shape is None or b.shape is None:
        return False
    named = all(isinstance(axis, int) or axis.value is not None for axis in a.shape)
    return named and a.shape == b.shape


def forward(node: ir.Node, old: ir.Value, new: ir.Value) -> None:
    """Use ``new`` wherever ``old``, an output of ``node``, is used; ``node`` is to be removed then.

    An output of the model keeps its name: where ``new`` is an input, an initializer or another
    output already, an Identity stands between.
    """
    graph = node.graph
    assert graph is not None
    if new.shape is None:
        new.shape = old.shape
    if new.type is None:
        new.type = old.type
    if old.is_graph_output():
        if new.is_graph_output() or new.is_graph_input() or new.is_initializer():
            new = add(node, "Identity", [new], like=old)
        name, old.name = old.name, None
        new.name = name
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def add(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, ir.Attr] | Mapping[str, int] | None = None,
    like: ir.Value | None = None,
) -> ir.Value:
    """The output of a new ``ai.onnx`` node in front of ``before``, named by the graph.

    It belongs to what ``before`` belongs to: ``meta`` is handed on.
    """
    node = ir.node(op_type, inputs, attributes or {})
    node.meta.update(before.meta)
    if like is not None:
        node.outputs[0].type, node.outputs[0].shape = like.type, like.shape
    assert before.graph is not None
    before.graph.insert_before(before, node)
    return node.outputs[0]


def initializer(graph: ir.Graph, values: Sequence[int]) -> ir.Value:
    """A 1-d int64 initializer that holds ``values``, shared by all who ask for them."""
    array = np.array(values, dtype=np.int64)
    name = "_".join(["odedeploy.int64", *map(str, values)])
    if name not in graph.initializers:
        value = ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.INT64),
            shape=ir.Shape(array.shape),
            const_value=ir.tensor(array, name=name),
        )
        graph.register_initializer(value)
    return graph.initializers[name]


def model_graph(node: ir.Node) -> ir.Graph:
    """The graph that ``node`` stands in."""
    assert isinstance(node.graph, ir.Graph)
    return node.graph
