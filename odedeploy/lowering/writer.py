"""Nodes to be inserted in a graph, and the constants they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

import numpy as np
import onnx_ir as ir


class Writer:
    """Collects nodes under unique names and hands out constants that are stored once.

    ``nodes`` are in execution order and belong to no graph yet; constants become initializers of
    ``graph`` at once.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.nodes: list[ir.Node] = []
        self._constants: dict[tuple[ir.DataType, tuple[int, ...], bytes], ir.Value] = {}
        self._names = {value.name for value in (*graph.inputs, *graph.initializers.values())}
        for node in graph.all_nodes():
            self._names |= {node.name, *(output.name for output in node.outputs)}

    def child(self) -> Writer:
        """A writer of the nodes of a body; names and constants are shared with this one."""
        made = copy(self)
        made.nodes = []
        return made

    def scalar(self, value: float, dtype: ir.DataType) -> ir.Value:
        """``value`` rounded to ``dtype`` as a 0-d initializer, one per rounded value."""
        return self._constant(np.array(value, dtype=dtype.numpy()), dtype, f"{value!r}")

    def integers(self, values: Sequence[int]) -> ir.Value:
        """A 1-d int64 initializer."""
        name = "_".join(map(str, values))
        return self._constant(np.array(values, dtype=np.int64), ir.DataType.INT64, f"axes_{name}")

    def weight(self, name: str, array: np.ndarray, dtype: ir.DataType) -> ir.Value:
        """``array`` rounded to ``dtype`` as an initializer of its own."""
        name = self.fresh(name)
        tensor = ir.tensor(array.astype(dtype.numpy()), dtype=dtype, name=name)
        value = ir.Value(
            name=name,
            type=ir.TensorType(dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        self.graph.register_initializer(value)
        return value
    def constant(self, array: np.ndarray, name: str) -> ir.Value:
        """``array`` as an initializer, one per dtype, shape and content."""
        return self._constant(array, ir.DataType.from_numpy(array.dtype), name)

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        name: str,
        like: ir.Value | None = None,
        attributes: Mapping[str, int] | None = None,
    ) -> ir.Value:
        """Append an ``ai.onnx`` node of one output, with the dtype and shape of ``like``."""
        node = ir.node(op_type, inputs, attributes or {}, name=self.fresh(f"{name}/{op_type}"))
        output = node.outputs[0]
        output.name = self.fresh(name)
        if like is not None:
            output.type, output.shape = like.type, like.shape
        self.nodes.append(node)
        return output

    def insert_before(self, node: ir.Node) -> None:
        """Insert the collected nodes in front of ``node`` and start over."""
        self.graph.insert_before(node, self.nodes)
        self.nodes = []

    def append(self) -> None:
        """Put the collected nodes at the end of the graph and start over."""
        self.graph.extend(self.nodes)
        self.nodes = []

    def fresh(self, name: str) -> str:
        """``name``, with a number behind it when it is taken."""
        chosen, n = name, 0
        while chosen in self._names:
            n += 1
            chosen = f"{name}_{n}"
        self._names.add(chosen)
        return chosen

    def _constant(self, array: np.ndarray, dtype: ir.DataType, name: str) -> ir.Value:
        key = (dtype, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.weight(name, array, dtype)
        return self._constants[key]
