"""The unrolled form: every evaluation of a plan written out, with its time as a constant."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from odedeploy.errors import BadInput
from odedeploy.graph import FIELD_DOMAIN, SOLVE_DOMAIN, OdeGraph, Site
from odedeploy.lowering.combination import Combinations
from odedeploy.lowering.field import FieldCopies
from odedeploy.lowering.writer import Writer
from odedeploy.program import Constants, Evaluate, Plan, SolvePlan

States = tuple[ir.Value, ...]


def unroll(graph: OdeGraph, plan: Plan) -> ir.Model:
    """A copy of the graph's model in which the plan's programs stand in place of its solves.

    Raises BadInput when the plan has no program for a solve or delivers other times than it asks,
    and when a solve of the graph is not in its model, on which the plan would have no effect.
    """
    model = graph.model.clone()
    writer = Writer(model.graph)
    solves = [n for n in model.graph if n.domain == SOLVE_DOMAIN and n.op_type == "Solve"]
    lost = {site.name for site in graph.sites} - {solve.name for solve in solves}
    if lost:
        raise BadInput(
            f"The model has its solves {sorted(lost)} already written out; capture it again."
        )
    for solve in solves:
        site = graph.site(solve.name or "")
        function = model.functions[(FIELD_DOMAIN, site.field, "")]
        _replace(solve, function, site, _checked(plan[site.name], site), writer)
    for key in [key for key in model.functions if key[0] == FIELD_DOMAIN]:
        del model.functions[key]
    for domain in (SOLVE_DOMAIN, FIELD_DOMAIN):
        model.graph.opset_imports.pop(domain, None)
    return model


def _checked(plan: SolvePlan, site: Site) -> SolvePlan:
    if len(plan.program.outputs) != len(site.times):
        raise BadInput(
            f"The plan of {site.name!r} delivers {len(plan.program.outputs)} states where the "
            f"model asks for {len(site.times)}; make the plan for this model."
        )
    return plan


def _replace(
    solve: ir.Node, function: ir.Function, site: Site, plan: SolvePlan, writer: Writer
) -> None:
    """Write the program of ``plan`` in place of ``solve``."""
    inputs = [value for value in solve.inputs if value is not None]
    initial, context = tuple(inputs[: site.states]), inputs[site.states :]
    field = FieldCopies(function, initial, context, writer, site.name)
    states = _run(plan, field, initial, writer)
    for i, trajectory in enumerate(solve.outputs):
        whole = _trajectory([state[i] for state in states], trajectory, writer)
        name, trajectory.name = trajectory.name, None
        whole.name = name
        trajectory.replace_all_uses_with(whole, replace_graph_outputs=True)
    writer.insert_before(solve)
    writer.graph.remove(solve, safe=True)


def _run(
    plan: SolvePlan, field: FieldCopies, initial: States, writer: Writer
) -> list[States]:
    """The states at the outputs of the plan's program."""
    program, name = plan.program, plan.site
    constants = iter(plan.constants or [Constants({})] * program.evaluations)
    dtypes = [_dtype(value, name) for value in initial]
    combine = [Combinations(writer, x, d) for x, d in zip(initial, dtypes, strict=True)]
    slopes: dict[int, States] = {}
    states: dict[int, States] = {0: initial}
    for step in program.instructions:
        if isinstance(step, Evaluate):
            time = writer.scalar(step.time, field.time_dtype or dtypes[0])
            derivatives = field(time, states[step.state], next(constants))
            slopes[step.slope] = tuple(
                _like(k, x, writer) for k, x in zip(derivatives, initial, strict=True)
            )
        else:
            written = f"{name}.x{step.state}"
            states[step.state] = tuple(
                combine[i](base, [(slopes[k][i], c) for k, c in step.terms], written)
                for i, base in enumerate(states[step.base])
            )
    return [states[i] for i in program.outputs]


def _trajectory(states: Sequence[ir.Value], trajectory: ir.Value, writer: Writer) -> ir.Value:
    """``states`` stacked on a new first axis."""
    first = writer.integers([0])
    slices = {
        state: writer.node("Unsqueeze", [state, first], f"{state.name}_slice")
        for state in dict.fromkeys(states)
    }
    parts = [slices[state] for state in states]
    return writer.node(
        "Concat", parts, f"{trajectory.name}_stacked", like=trajectory, attributes={"axis": 0}
    )


def _like(derivative: ir.Value, state: ir.Value, writer: Writer) -> ir.Value:
    """``derivative`` in the dtype of ``state``."""
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
