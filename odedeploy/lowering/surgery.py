"""What all forms share: every solve of a model is taken out and something written in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from odedeploy.errors import BadInput
from odedeploy.graph import FIELD_DOMAIN, SOLVE_DOMAIN, OdeGraph, Site
from odedeploy.lowering.writer import Writer

States = tuple[ir.Value, ...]


@dataclass(frozen=True)
class Solve:
    """One solve to be written: its call, the vector field and the values that it reads."""

    site: Site
    function: ir.Function
    initial: States
    context: Sequence[ir.Value]

    @property
    def dtypes(self) -> list[ir.DataType]:
        """One per state tensor."""
        return [_dtype(value, self.site.name) for value in self.initial]


Write = Callable[[Solve, Writer], Sequence[ir.Value]]
"""Writes a solve; one trajectory of shape (times, *state) per state tensor."""


def rewritten(
    graph: OdeGraph, write: Write, finish: Callable[[Writer], None] | None = None
) -> ir.Model:
    """A copy of the graph's model in which ``write`` stands in place of its solves.

    ``finish`` may write more after the last of them.

    Raises BadInput when a solve of the graph is not in its model, on which a plan would have no
    effect.
    """
    model = graph.model.clone()
    writer = Writer(model.graph)
    solves = [n for n in model.graph if n.domain == SOLVE_DOMAIN and n.op_type == "Solve"]
    lost = {site.name for site in graph.sites} - {solve.name for solve in solves}
    if lost:
        raise BadInput(
            f"The model has its solves {sorted(lost)} already written out; capture it again."
        )
    for node in solves:
        site = graph.site(node.name or "")
        inputs = [value for value in node.inputs if value is not None]
        function = model.functions[(FIELD_DOMAIN, site.field, "")]
        solve = Solve(site, function, tuple(inputs[: site.states]), inputs[site.states :])
        for old, new in zip(node.outputs, write(solve, writer), strict=True):
            new.type, new.shape = old.type, old.shape
            name, old.name = old.name, None
            new.name = name
            old.replace_all_uses_with(new, replace_graph_outputs=True)
        writer.insert_before(node)
        model.graph.remove(node, safe=True)
    if finish is not None:
        finish(writer)
    for key in [key for key in model.functions if key[0] == FIELD_DOMAIN]:
        del model.functions[key]
    for domain in (SOLVE_DOMAIN, FIELD_DOMAIN):
        model.graph.opset_imports.pop(domain, None)
    return model


def stacked(states: Sequence[ir.Value], writer: Writer) -> ir.Value:
    """``states`` as a trajectory, stacked on a new first axis."""
    first = writer.integers([0])
    slices = {
        state: writer.node("Unsqueeze", [state, first], f"{state.name}_slice")
        for state in dict.fromkeys(states)
    }
    parts = [slices[state] for state in states]
    return writer.node("Concat", parts, f"{states[-1].name}_stacked", attributes={"axis": 0})


def as_state(derivatives: Sequence[ir.Value], states: States, writer: Writer) -> States:
    """``derivatives`` in the dtypes of ``states``."""
    return tuple(_like(k, x, writer) for k, x in zip(derivatives, states, strict=True))


def optional_input(graph: ir.Graph, name: str, default: np.ndarray) -> ir.Value:
    """The input ``name`` of a model, with a value that holds when none is given.

    Raises BadInput when the model has an input of that name already.
    """
    if name in graph.initializers:
        return graph.initializers[name]
    if any(value.name == name for value in graph.inputs):
        raise BadInput(
            f"The model has an input {name!r} already, which this form needs for itself; rename it."
        )
    value = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.from_numpy(default.dtype)),
        shape=ir.Shape(default.shape),
        const_value=ir.tensor(default, name=name),
    )
    graph.inputs.append(value)
    graph.register_initializer(value)
    return value


def _like(derivative: ir.Value, state: ir.Value, writer: Writer) -> ir.Value:
    if derivative.dtype is None or state.dtype is None or derivative.dtype == state.dtype:
        return derivative
    cast = {"to": int(state.dtype)}
    return writer.node("Cast", [derivative], f"{derivative.name}_cast", state, cast)


def _dtype(value: ir.Value, site: str) -> ir.DataType:
    if value.dtype is None:
        raise BadInput(
            f"The state {value.name!r} of {site!r} has no dtype in this graph; capture it again."
        )
    return value.dtype
