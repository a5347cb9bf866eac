"""The unrolled form: every evaluation of a plan written out, with its time as a constant."""

from __future__ import annotations

import onnx_ir as ir

from odedeploy.errors import BadInput
from odedeploy.graph import OdeGraph
from odedeploy.lowering import alarm
from odedeploy.lowering.combination import Combinations
from odedeploy.lowering.field import FieldCopies
from odedeploy.lowering.surgery import Solve, States, as_state, rewritten, stacked
from odedeploy.lowering.writer import Writer
from odedeploy.program import Constants, Evaluate, Plan, SolvePlan


def unroll(graph: OdeGraph, plan: Plan) -> ir.Model:
    """A copy of the graph's model in which the plan's programs stand in place of its solves.

    Raises BadInput when the plan has no program for a solve or delivers other times than it asks,
    and when a solve of the graph is not in its model, on which the plan would have no effect.
    """
    initial: dict[str, States] = {}
    slopes: dict[str, dict[int, States]] = {}

    def written(solve: Solve, writer: Writer) -> list[ir.Value]:
        name = solve.site.name
        initial[name], slopes[name] = solve.initial, {}
        return write(solve, plan[name], writer, slopes[name])

    def finish(writer: Writer) -> None:
        if plan.alarm is not None:
            alarm.write(plan.alarm, initial, slopes, writer)

    return rewritten(graph, written, finish)


def write(
    solve: Solve, plan: SolvePlan, writer: Writer, noted: dict[int, States] | None = None
) -> list[ir.Value]:
    """The trajectories of ``solve`` under the program of ``plan``; its slopes go to ``noted``."""
    if len(plan.program.outputs) != len(solve.site.times):
        raise BadInput(
            f"The plan of {plan.site!r} delivers {len(plan.program.outputs)} states where the "
            f"model asks for {len(solve.site.times)}; make the plan for this model."
        )
    field = FieldCopies(solve.function, solve.initial, solve.context, writer, plan.site)
    states = _run(solve, plan, field, writer, {} if noted is None else noted)
    return [
        stacked([state[i] for state in states], writer) for i in range(len(solve.initial))
    ]


def _run(
    solve: Solve, plan: SolvePlan, field: FieldCopies, writer: Writer, slopes: dict[int, States]
) -> list[States]:
    """The states at the program's outputs; the slopes are written into ``slopes``."""
    initial, dtypes = solve.initial, solve.dtypes
    constants = iter(plan.constants or [Constants({})] * plan.program.evaluations)
    combine = [Combinations(writer, x, d) for x, d in zip(initial, dtypes, strict=True)]
    states: dict[int, States] = {0: initial}
    for step in plan.program.instructions:
        if isinstance(step, Evaluate):
            time = writer.scalar(step.time, field.time_dtype or dtypes[0])
            derivatives = field(time, states[step.state], next(constants))
            slopes[step.slope] = as_state(derivatives, initial, writer)
        else:
            name = f"{plan.site}.x{step.state}"
            states[step.state] = tuple(
                combine[i](base, [(slopes[k][i], c) for k, c in step.terms], name)
                for i, base in enumerate(states[step.base])
            )
    return [states[i] for i in plan.program.outputs]
