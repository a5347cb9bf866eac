"""From an exported graph with markers to an ODE graph: each vector field becomes a function."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from odedeploy.errors import CaptureRefused
from odedeploy.frontends.markers import DOMAIN, SOLVE, STATE, TIME
from odedeploy.graph import FIELD_DOMAIN, SOLVE_DOMAIN, Site


def assemble(model: ir.Model, sites: Sequence[Site]) -> tuple[ir.Model, tuple[Site, ...]]:
    """Cut every marked field out of ``model``, in place, into a function.

    Solves with the same field, up to the weights and other values that it reads, share one
    function; the sites come back with its name.

    Raises CaptureRefused when a value of a field is used outside its solve, or when a solution
    never reaches an output.
    """
    _own_weights(model)
    for site in sites:
        _extract(model, site)
    if sites:
        model.graph.opset_imports[SOLVE_DOMAIN] = 1
        model.graph.opset_imports[FIELD_DOMAIN] = 1
    return model, tuple(_shared(model, sites))


def _own_weights(model: ir.Model) -> None:
    """Copies in place of views of the PyTorch model's parameters, which training may change."""
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            array = np.array(value.const_value.numpy(), order="C")
            value.const_value = ir.tensor(array, dtype=value.dtype, name=value.name)


def _shared(model: ir.Model, sites: Sequence[Site]) -> Iterator[Site]:
    first: dict[Any, str] = {}
    for site in sites:
        key = (FIELD_DOMAIN, site.field, "")
        name = first.setdefault(_structure(model.functions[key]), site.field)
        if name != site.field:
            del model.functions[key]
        yield replace(site, field=name)


def _structure(function: ir.Function) -> Any:
    """What a function computes, apart from names; functions with subgraphs equal none other."""
    numbers = {value: i for i, value in enumerate(function.inputs)}
    nodes = []
    for node in function:
        attributes = node.attributes.values()
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in attributes):
            return function.name
        plain = sorted(ir.to_proto(a).SerializeToString(deterministic=True) for a in attributes)
        read = tuple(-1 if value is None else numbers[value] for value in node.inputs)
        nodes.append((node.domain, node.op_type, read, tuple(plain), len(node.outputs)))
        for output in node.outputs:
            numbers[output] = len(numbers)
    kinds = tuple((str(value.dtype), str(value.shape)) for value in function.inputs)
    return kinds, tuple(nodes), tuple(numbers[value] for value in function.outputs)


def _extract(model: ir.Model, site: Site) -> None:
    graph = model.graph
    solve = _find(graph, SOLVE, site)[0]
    markers = [*_find(graph, TIME, site), *_find(graph, STATE, site)]
    variables = _variables(markers, solve, site)
    derivatives = [_own(value, graph, solve) for value in solve.inputs[site.states :]]
    nodes = _between(graph, variables, derivatives)
    _refuse_leaks(nodes, variables, solve, site)
    context = _context(nodes, variables)
    view = ir.GraphView([*variables, *context], derivatives, nodes=nodes, name=site.field,
                        opset_imports={"": graph.opset_imports[""]})
    body = view.clone()
    for value in body.inputs:
        value.const_value = None
    model.functions[(FIELD_DOMAIN, site.field, "")] = ir.Function(
        FIELD_DOMAIN, site.field, graph=body, attributes=()
    )
    _replace_solve(graph, solve, site, context)
    graph.remove([*nodes, *markers], safe=True)


def _replace_solve(
    graph: ir.Graph, solve: ir.Node, site: Site, context: Sequence[ir.Value]
) -> None:
    operator = ir.Node(
        SOLVE_DOMAIN, "Solve", [*solve.inputs[: site.states], *context],
        num_outputs=len(solve.outputs), name=site.name, version=1,
    )
    for old, new in zip(solve.outputs, operator.outputs, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.insert_before(solve, operator)
    graph.remove(solve, safe=True)


def _own(value: ir.Value | None, graph: ir.Graph, solve: ir.Node) -> ir.Value:
    """``value`` behind an Identity, so that the field has an output that is nobody else's."""
    assert value is not None
    node = ir.Node("", "Identity", [value])
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    node.outputs[0].name = f"{value.name}_derivative"
    graph.insert_before(solve, node)
    return node.outputs[0]


def _between(
    graph: ir.Graph, entrances: Sequence[ir.Value], exits: Sequence[ir.Value]
) -> list[ir.Node]:
    """Nodes that depend on an entrance and that an exit depends on, in graph order."""
    downstream = set(entrances)
    for node in graph:
        if any(value in downstream for value in node.inputs):
            downstream.update(node.outputs)
    markers = {value.producer() for value in entrances}
    upstream: set[ir.Node] = set()
    pending = [value for value in exits]
    while pending:
        value = pending.pop()
        producer = value.producer()
        if producer is None or producer in upstream or producer in markers:
            continue
        if value in exits or value in downstream:
            upstream.add(producer)
            pending += [read for read in producer.inputs if read is not None]
    return [node for node in graph if node in upstream]


def _context(nodes: Sequence[ir.Node], variables: Sequence[ir.Value]) -> list[ir.Value]:
    """Values that the field reads and does not compute, once each, in order of first use."""
    inside = {output for node in nodes for output in node.outputs} | set(variables)
    return list(
        dict.fromkeys(
            value
            for node in nodes
            for value in node.inputs
            if value is not None and value not in inside
        )
    )


def _refuse_leaks(
    nodes: Sequence[ir.Node], variables: Sequence[ir.Value], solve: ir.Node, site: Site
) -> None:
    inside = {*nodes, solve}
    for value in [*variables, *(output for node in nodes for output in node.outputs)]:
        if value.is_graph_output() or any(use.node not in inside for use in value.uses()):
            raise CaptureRefused(
                f"{site.location}: a value computed inside the vector field of {site.name} is used "
                "outside its solve; carry it in the state instead."
            )


def _find(graph: ir.Graph, kind: str, site: Site) -> list[ir.Node]:
    found = [
        node for node in graph
        if node.domain == DOMAIN and node.op_type == kind
        and "site" in node.attributes and node.attributes["site"].as_string() == site.name
    ]
    if not found and kind == SOLVE:
        raise CaptureRefused(
            f"{site.location}: the solution of {site.name} does not reach the model's output; "
            "return it."
        )
    return found


def _variables(markers: Sequence[ir.Node], solve: ir.Node, site: Site) -> list[ir.Value]:
    """Time and states as the field sees them; what it never reads has no marker left."""
    found = {
        node.attributes["index"].as_int() if node.op_type == STATE else -1: node.outputs[0]
        for node in markers
    }
    initial = solve.inputs[: site.states]
    assert initial[0] is not None
    unread = {-1: ir.Value(name=f"{site.name}_time", type=initial[0].type, shape=ir.Shape([]))}
    for i, value in enumerate(initial):
        assert value is not None
        unread[i] = ir.Value(name=f"{site.name}_state{i}", type=value.type, shape=value.shape)
    return [found.get(i, unread[i]) for i in range(-1, site.states)]
