"""Clean-up of lowered models. Every pass is a file with ``run(model) -> modified``, in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import onnx_ir as ir

from odedeploy.passes import (
    constants,
    dead,
    fold_time,
    names,
    noop,
    offsets,
    scales,
    shapes,
    sink,
    spread,
    strip,
    subexpressions,
    time_maps,
    trajectory,
)

PASSES = (
    constants,
    trajectory,
    dead,
    shapes,
    constants,
    noop,
    subexpressions,
    fold_time,
    time_maps,
    dead,
    shapes,
    offsets,
    scales,
    spread,
    subexpressions,
    dead,
    shapes,
    names,
    strip,
)
"""In this order: a trajectory must be taken apart before what it kept alive can go, shapes must be
known before what does nothing can be seen, and time be folded before it shows which constants are
left to be moved."""


def clean(model: ir.Model) -> ir.Model:
    """``model`` itself, after every pass: the same function, without what it does not need.

    The body of a loop holds the weights that it alone reads, and is then cleaned like a model.
    """
    _clean(model)
    _name_apart(model)
    return model


def _clean(model: ir.Model) -> None:
    _run(model)
    sink.run(model)
    for body in sink.bodies(model.graph):
        with _standing_alone(body, model.graph.opset_imports):
            _clean(ir.Model(body, ir_version=model.ir_version))


def _run(model: ir.Model) -> None:
    for each in PASSES:
        each.run(model)


@contextmanager
def _standing_alone(body: ir.Graph, opset_imports: Mapping[str, int]) -> Iterator[None]:
    """``body`` as a graph of its own: what it reads from around it are inputs."""
    around: dict[ir.Value, ir.Value] = {}
    reads = [value for node in body.all_nodes() for value in node.inputs if value is not None]
    inner = {id(graph) for graph in (body, *body.subgraphs())}
    for value in dict.fromkeys(reads):
        if id(value.graph) not in inner:
            around[value] = ir.Value(name=value.name, type=value.type, shape=value.shape)
            _replace_in(body, value, around[value])
    given = len(body.inputs)
    body.inputs.extend(around.values())
    body.opset_imports.update(opset_imports)
    try:
        yield
    finally:
        body.opset_imports.clear()
        del body.inputs[given:]
        for value, inside in around.items():
            _replace_in(body, inside, value)


def _replace_in(body: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    for node in body.all_nodes():
        for place, value in enumerate(node.inputs):
            if value is old:
                node.replace_input_with(place, new)


def _name_apart(model: ir.Model) -> None:
    """Give values of bodies names that are not in use around them."""
    taken: set[str] = set()
    for graph in model.graphs():
        values = [*graph.inputs, *graph.initializers.values()]
        values += [value for node in graph for value in node.outputs]
        for value in dict.fromkeys(values):
            name, n = value.name or "", 0
            while name and name in taken:
                n += 1
                name = f"{value.name}.{n}"
            if name != value.name:
                value.name = name
            taken.add(name)
