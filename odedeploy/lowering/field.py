"""Copies of a vector field's nodes, bound to the values of a solve."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
from onnx_ir.analysis import analyze_implicit_usage

from odedeploy.errors import BadInput
from odedeploy.lowering.writer import Writer

_RANDOM = {
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
}  # fmt: skip

FIELD = "odedeploy.field"
"""Key in the ``meta`` of nodes that evaluate a field on the state; it is not written to files."""

Values = dict[ir.Value, ir.Value]

_TRAINED: Mapping[str, np.ndarray] = MappingProxyType({})


class Depends(IntEnum):
    """What a value of a vector field depends on at most."""

    WEIGHTS = 0
    CONTEXT = 1
    TIME = 2
    STATE = 3


class FieldCopies:
    """Writes one evaluation of a vector field per call.

    What depends on the context alone is written once, what depends on time as well once per
    distinct time, so that only the rest is repeated, and what an evaluation has constants of its
    own for. With a writer ``body``, evaluations belong to the body of a loop: there goes all that
    depends on time, state or nothing but weights, which a runtime computes beforehand where they
    are. Shapes are carried over when the field was captured with the shapes of these states.
    """

    def __init__(
        self,
        function: ir.Function,
        initial: Sequence[ir.Value],
        context: Sequence[ir.Value],
        writer: Writer,
        name: str,
        body: Writer | None = None,
    ) -> None:
        self._function = function
        self._writer = body or writer
        self._name = name
        self.context = context
        self._time, *rest = function.inputs
        self._states = rest[: len(initial)]
        self._shaped = [v.shape for v in self._states] == [v.shape for v in initial]
        self._reads = _reads(function)
        self._outer: Values = dict(zip(rest[len(initial) :], context, strict=True))
        given = [v for v, bound in self._outer.items() if not bound.is_initializer()]
        self._parts = _partition(self._reads, self._time, self._states, given)
        self._evaluated = set(self._parts[Depends.STATE])
        self._weights = {
            outer.name: inner for inner, outer in self._outer.items() if outer.is_initializer()
        }
        self._copy(self._parts[Depends.WEIGHTS], self._outer, self._writer)
        self._copy(self._parts[Depends.CONTEXT], self._outer, writer)
        self._at: dict[ir.Value, Values] = {}
        self._count = 0

    @property
    def time_dtype(self) -> ir.DataType | None:
        return self._time.dtype or self._states[0].dtype

    def __call__(
        self,
        time: ir.Value,
        states: Sequence[ir.Value],
        constants: Mapping[str, np.ndarray] = _TRAINED,
    ) -> list[ir.Value]:
        """The derivatives at ``time`` (0-d) and ``states``.

        ``constants`` stand in for weights of the context, by their names; each becomes an
        initializer of this evaluation alone. Raises BadInput for a name that is none, or another
        number of elements.
        """
        if time not in self._at:
            self._at[time] = {**self._outer, self._time: time}
            self._copy(
                self._parts[Depends.TIME], self._at[time], self._writer, f"t{len(self._at) - 1}"
            )
        values = {**self._at[time], **dict(zip(self._states, states, strict=True))}
        prefix = f"f{self._count}"
        if constants:
            own = {self._weight(n, a): self._own(n, a, prefix) for n, a in constants.items()}
            values |= own
            self._copy(self._affected(own), values, self._writer, prefix)
        self._copy(self._parts[Depends.STATE], values, self._writer, prefix)
        self._count += 1
        return [values[output] for output in self._function.outputs]

    def _weight(self, name: str, array: np.ndarray) -> ir.Value:
        """The function's input that the context's weight ``name`` is bound to."""
        found = self._weights.get(name)
        if found is None or _size(self._outer[found]) != array.size:
            raise BadInput(
                f"The plan of {self._name!r} has {array.size} constants in place of the weight "
                f"{name!r}, which its vector field does not read in this size; make the plan for "
                "this model."
            )
        return found

    def _own(self, name: str, array: np.ndarray, prefix: str) -> ir.Value:
        """``array`` as an initializer in the shape and dtype of the weight ``name``."""
        trained = self._outer[self._weights[name]]
        assert trained.shape is not None and trained.dtype is not None
        shaped = array.reshape(trained.shape.numpy())
        return self._writer.weight(f"{self._name}.{prefix}/{name}", shaped, trained.dtype)

    def _affected(self, own: Iterable[ir.Value]) -> list[ir.Node]:
        """Nodes apart from those that depend on the state that follow from ``own``."""
        changed, nodes = set(own), []
        for part in (Depends.WEIGHTS, Depends.CONTEXT, Depends.TIME):
            for node in self._parts[part]:
                if not changed.isdisjoint(self._reads[node]):
                    changed.update(node.outputs)
                    nodes.append(node)
        return nodes

    def _copy(
        self, nodes: Iterable[ir.Node], values: Values, writer: Writer, prefix: str = ""
    ) -> None:
        """Copy ``nodes``, read their inputs from ``values``, add their outputs."""
        prefix = ".".join(filter(None, (self._name, prefix)))
        for node in nodes:
            copy = ir.Node(
                node.domain,
                node.op_type,
                [None if value is None else values[value] for value in node.inputs],
                [_bound(attribute, values) for attribute in node.attributes.values()],
                overload=node.overload,
                num_outputs=len(node.outputs),
                version=node.version,
                name=writer.fresh(f"{prefix}/{node.name or node.op_type}"),
            )
            if node in self._evaluated:
                copy.meta[FIELD] = self._name
            for old, new in zip(node.outputs, copy.outputs, strict=True):
                new.name = writer.fresh(f"{prefix}/{old.name}") if old.name else ""
                new.type = old.type
                new.shape = old.shape if self._shaped else None
                values[old] = new
            writer.nodes.append(copy)


def _reads(function: ir.Function) -> dict[ir.Node, list[ir.Value]]:
    """What each node reads, its subgraphs included, in order of the nodes."""
    implicit = analyze_implicit_usage(function.graph)
    reads = {}
    for node in function:
        reads[node] = [value for value in node.inputs if value is not None]
        for graph in _subgraphs(node.attributes.values()):
            reads[node] += implicit[graph]
    return reads


def _partition(
    reads: Mapping[ir.Node, Sequence[ir.Value]],
    time: ir.Value,
    states: Iterable[ir.Value],
    given: Iterable[ir.Value],
) -> dict[Depends, list[ir.Node]]:
    """Nodes, in order, by what they depend on."""
    depends = dict.fromkeys(given, Depends.CONTEXT)
    depends |= {time: Depends.TIME, **dict.fromkeys(states, Depends.STATE)}
    parts: dict[Depends, list[ir.Node]] = {part: [] for part in Depends}
    for node, values in reads.items():
        part = max((depends.get(value, Depends.WEIGHTS) for value in values), default=Depends(0))
        if node.op_type in _RANDOM:
            part = Depends.STATE
        depends.update(dict.fromkeys(node.outputs, part))
        parts[part].append(node)
    return parts


def _size(weight: ir.Value) -> int:
    return 0 if weight.shape is None else int(np.prod(weight.shape.numpy()))


def _subgraphs(attributes: Iterable[ir.Attr]) -> list[ir.Graph]:
    found: list[ir.Graph] = []
    for attribute in attributes:
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += attribute.as_graphs()
    return found


def _bound(attribute: ir.Attr, values: Values) -> ir.Attr:
    """``attribute``, its subgraphs copied with what they read from outside taken from ``values``.

    Other attributes are immutable and shared.
    """
    if attribute.type == ir.AttributeType.GRAPH:
        return ir.AttrGraph(attribute.name, _bound_graph(attribute.as_graph(), values))
    if attribute.type == ir.AttributeType.GRAPHS:
        graphs = [_bound_graph(graph, values) for graph in attribute.as_graphs()]
        return ir.AttrGraphs(attribute.name, graphs)
    return attribute


def _bound_graph(graph: ir.Graph, values: Values) -> ir.Graph:
    copy = graph.clone(allow_outer_scope_values=True)
    for node in copy.all_nodes():
        for i, value in enumerate(node.inputs):
            if value in values:
                node.replace_input_with(i, values[value])
    for i, output in enumerate(copy.outputs):
        if output in values:
            copy.outputs[i] = values[output]
    return copy
