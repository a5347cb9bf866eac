"""Copies of a vector field's nodes, bound to the values of a solve."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum

import onnx_ir as ir
from onnx_ir.analysis import analyze_implicit_usage

from odedeploy.lowering.writer import Writer

_RANDOM = {
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
}  # fmt: skip

Values = dict[ir.Value, ir.Value]


class Depends(IntEnum):
    """What a value of a vector field depends on at most."""

    WEIGHTS = 0
    CONTEXT = 1
    TIME = 2
    STATE = 3


class FieldCopies:
    """Writes one evaluation of a vector field per call.

    What depends on the context alone is written once, what depends on time as well once per
    distinct time, so that only the rest is repeated. With a writer ``body``, evaluations belong to
    the body of a loop: there goes all that depends on time, state or nothing but weights, which a
    runtime computes beforehand where they are. Shapes are carried over when the field was captured
    with the shapes of these states.
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
        self._outer: Values = dict(zip(rest[len(initial) :], context, strict=True))
        given = [v for v, bound in self._outer.items() if not bound.is_initializer()]
        self._parts = _partition(function, self._time, self._states, given)
        self._copy(Depends.WEIGHTS, self._outer, name, self._writer)
        self._copy(Depends.CONTEXT, self._outer, name, writer)
        self._at: dict[ir.Value, Values] = {}
        self._count = 0

    @property
    def time_dtype(self) -> ir.DataType | None:
        return self._time.dtype or self._states[0].dtype

    def __call__(self, time: ir.Value, states: Sequence[ir.Value]) -> list[ir.Value]:
        """The derivatives at ``time`` (0-d) and ``states``."""
        if time not in self._at:
            self._at[time] = {**self._outer, self._time: time}
            prefix = f"{self._name}.t{len(self._at) - 1}"
            self._copy(Depends.TIME, self._at[time], prefix, self._writer)
        values = {**self._at[time], **dict(zip(self._states, states, strict=True))}
        self._copy(Depends.STATE, values, f"{self._name}.f{self._count}", self._writer)
        self._count += 1
        return [values[output] for output in self._function.outputs]

    def _copy(self, part: Depends, values: Values, prefix: str, writer: Writer) -> None:
        """Copy the nodes of ``part``, read their inputs from ``values``, add their outputs."""
        for node in self._parts[part]:
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
            for old, new in zip(node.outputs, copy.outputs, strict=True):
                new.name = writer.fresh(f"{prefix}/{old.name}") if old.name else ""
                new.type = old.type
                new.shape = old.shape if self._shaped else None
                values[old] = new
            writer.nodes.append(copy)


def _partition(
    function: ir.Function, time: ir.Value, states: Iterable[ir.Value], given: Iterable[ir.Value]
) -> dict[Depends, list[ir.Node]]:
    """The function's nodes, in order, by what they depend on."""
    implicit = analyze_implicit_usage(function.graph)
    depends = dict.fromkeys(given, Depends.CONTEXT)
    depends |= {time: Depends.TIME, **dict.fromkeys(states, Depends.STATE)}
    parts: dict[Depends, list[ir.Node]] = {part: [] for part in Depends}
    for node in function:
        reads = [value for value in node.inputs if value is not None]
        for graph in _subgraphs(node.attributes.values()):
            reads += implicit[graph]
        part = max((depends.get(value, Depends.WEIGHTS) for value in reads), default=Depends(0))
        if node.op_type in _RANDOM:
            part = Depends.STATE
        depends.update(dict.fromkeys(node.outputs, part))
        parts[part].append(node)
    return parts


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
