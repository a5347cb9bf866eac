"""The adaptive form: an embedded pair with step-size control as the body of a Loop.

Control as in torchdiffeq and Hairer, Nørsett, Wanner 1993, Solving ODEs I, section II.4: a step is
accepted when the root mean square of error / (atol + rtol·max(|x₀|, |x₁|)) is at most 1, and the
next is 0.9·ratio^(−1/5) times as long, at least 0.2 and at most 10. The last step ends at the last
time. States in between come from the interpolant of fourth order (Shampine 1986, Math. Comp. 46,
135–150). A state that is not finite, a step that no longer moves the time and too many evaluations
end the loop with ``converged`` 0 and the last accepted state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from odedeploy.errors import BadInput
from odedeploy.graph import OdeGraph, Site
from odedeploy.lowering import unrolled
from odedeploy.lowering.combination import Combinations
from odedeploy.lowering.control import Clock, first_step
from odedeploy.lowering.field import FieldCopies
from odedeploy.lowering.rows import per_sample
from odedeploy.lowering.surgery import (
    Solve,
    States,
    as_state,
    optional_input,
    rewritten,
    stacked,
)
from odedeploy.lowering.writer import Writer
from odedeploy.program import Control, Plan
from odedeploy.program.control import (
    ATOL,
    CONVERGED,
    EVALUATIONS,
    MAX_EVALUATIONS,
    RTOL,
)
from odedeploy.solvers import find
from odedeploy.tableau import Tableau

START = 2
"""Evaluations that find the first step."""

MIDDLE = (
    6025192743 / 30085553152 / 2, 0.0, 51252292925 / 65400821598 / 2,
    -2691868925 / 45128329728 / 2, 187940372067 / 1594534317056 / 2,
    -1776094331 / 19743644256 / 2, 11237099 / 235043384 / 2,
)  # fmt: skip
"""Weights of dopri5's seven slopes for the state in the middle of a step."""


ESTIMATE = {"dopri5": 2 / 3}
"""Share of the published error estimate that counts; torchdiffeq's is two thirds of dopri5's."""


def adaptive(graph: OdeGraph, plan: Plan) -> ir.Model:
    """A copy of the graph's model whose solves choose their own steps, as ``plan.control`` says.

    Fixed-step calls that are kept are unrolled as ``plan`` says. Raises BadInput for a plan without
    control, for a solver that is no embedded pair, for one without an interpolant where states
    between the ends are asked for, and when a name of an input or output of this form is taken.
    """
    control = plan.control
    if control is None:
        raise BadInput(
            "The adaptive form needs a plan with step-size control, and this one has none; plan "
            "for the form 'adaptive'."
        )
    counts: list[ir.Value] = []
    ends: list[ir.Value] = []
    pair = embedded_pair(control.solver)

    def write(solve: Solve, writer: Writer) -> Sequence[ir.Value]:
        if solve.site.kept is not None:
            return unrolled.write(solve, plan[solve.site.name], writer)
        trajectories, evaluations, converged = _Solve(solve, pair, control, writer).written()
        counts.append(evaluations)
        ends.append(converged)
        return trajectories

    model = rewritten(graph, write)
    _report(model, EVALUATIONS, "Add", counts)
    _report(model, CONVERGED, "Min", ends)
    return per_sample(model) if control.per_sample else model


def embedded_pair(name: str) -> Tableau:
    """The solver of that name; raises BadInput when it cannot control its own steps."""
    method = find(name)
    if not isinstance(method, Tableau) or method.b_low is None:
        raise BadInput(f"{name!r} has no embedded solution to control steps with; take dopri5.")
    if len(method.b_low) != method.stages + 1:
        raise BadInput(f"{name!r} does not reuse its last slope; take dopri5.")
    return method


def error_weights(pair: Tableau) -> list[float]:
    """Of the slopes of a step, for its error in units of the step."""
    share = ESTIMATE.get(pair.name, 1.0)
    assert pair.b_low is not None
    high = [*pair.b, 0]
    return [share * (float(a) - float(b)) for a, b in zip(high, pair.b_low, strict=True)]


def check_times(pair: Tableau, site: Site) -> None:
    """Raises BadInput where ``pair`` cannot give the states between the ends of a solve."""
    if len(site.times) > 2 and pair.name != "dopri5":
        raise BadInput(
            f"{pair.name!r} has no interpolant for the times between; take dopri5."
        )


def _report(model: ir.Model, name: str, op_type: str, values: Sequence[ir.Value]) -> None:
    graph = model.graph
    if any(output.name == name for output in graph.outputs):
        raise BadInput(f"The model has an output {name!r} already, which this form needs.")
    result, *rest = values
    for value in rest:
        node = ir.node(op_type, [result, value])
        graph.append(node)
        result = node.outputs[0]
    last = ir.node("Identity", [result])
    output = last.outputs[0]
    output.name, output.type, output.shape = name, ir.TensorType(ir.DataType.INT64), ir.Shape([])
    graph.append(last)
    graph.outputs.append(output)


class _Solve:
    """One solve being written."""

    def __init__(self, solve: Solve, pair: Tableau, control: Control, writer: Writer) -> None:
        self.solve, self.pair, self.outer, self.inner = solve, pair, writer, writer.child()
        self.name, self.dtypes = solve.site.name, solve.dtypes
        graph, kind = writer.graph, self.dtypes[0]
        number = np.array(control.tolerance, dtype=kind.numpy())
        self.rtol = optional_input(graph, RTOL, number)
        self.atol = optional_input(graph, ATOL, number)
        self.most = optional_input(graph, MAX_EVALUATIONS, np.array(control.max_evaluations))
        self.field = FieldCopies(
            solve.function, solve.initial, solve.context, writer, self.name, self.inner
        )
        times = solve.site.times
        self.clock = Clock(self.inner, times[0], times[-1], kind)
        check_times(pair, solve.site)

    def written(self) -> tuple[Sequence[ir.Value], ir.Value, ir.Value]:
        """The trajectories, the evaluations spent and whether the end was reached, 1 or 0."""
        inner, clock = self.inner, self.clock
        iteration = self._input("iteration", ir.DataType.INT64, [])
        going = self._input("going", ir.DataType.BOOL, [])
        time = self._input("time", ir.DataType.DOUBLE, [])
        proposed = self._input("proposed", ir.DataType.DOUBLE, [])
        spent = self._input("spent", ir.DataType.INT64, [])
        done = self._input("done", ir.DataType.BOOL, [])
        states, slopes = self._like_states("x"), self._like_states("slope")
        begun = self._started(iteration, time, proposed, spent, states, slopes)
        first, proposed_now, spent_now = begun
        step, last = clock.step(time, proposed_now)
        stages, after = self._stages(time, step, states, first)
        ratio = self._ratio(stages, states, after, step)
        accepted = inner.node("LessOrEqual", [ratio, clock.number(1.0)], "accepted")
        ended = inner.node("And", [accepted, last], "ended")
        moved = clock.moved(time, step, accepted, last)
        following = clock.following(step, ratio)
        cost = inner.constant(np.array(self.pair.stages), "cost")
        total = inner.node("Add", [spent_now, cost], "total")
        on = clock.goes_on(following, ended, total, cost, self.most)
        kept = [
            inner.node("Where", [accepted, new, old], f"{self.name}.kept", like=old)
            for new, old in zip((*after, *stages[-1]), (*states, *first), strict=True)
        ]
        between = self._between(time, step, accepted, states, after, stages)
        inputs = [iteration, going, time, proposed, spent, done, *states, *slopes]
        outputs = [on, moved, following, total, ended, *kept]
        given = self._given()
        for old, new, initial in between:
            inputs.append(old)
            outputs.append(new)
            given.append(initial)
        body = ir.Graph(inputs, outputs, nodes=inner.nodes, name=f"{self.name}.step")
        loop = ir.Node(
            "", "Loop", given, [ir.AttrGraph("body", body)], num_outputs=len(outputs) - 1,
            name=self.outer.fresh(f"{self.name}/Loop"),
        )  # fmt: skip
        for output, inside in zip(loop.outputs, inputs[2:], strict=True):
            output.name, output.type = self.outer.fresh(f"{inside.name}_end"), inside.type
            output.shape = inside.shape
        self.outer.nodes.append(loop)
        count = len(self.solve.initial)
        flag = self.outer.node("Cast", [loop.outputs[3]], "reached", attributes={"to": 7})
        finals, middles = loop.outputs[4 : 4 + count], loop.outputs[4 + 2 * count :]
        return self._trajectories(finals, middles), loop.outputs[2], flag

    def _given(self) -> list[ir.Value]:
        """What the loop starts with."""
        outer, times = self.outer, self.solve.site.times
        least = outer.constant(np.array(START + self.pair.stages), "least")
        zeros = [
            outer.node("Mul", [x, outer.scalar(0.0, d)], f"{self.name}.none", like=x)
            for x, d in zip(self.solve.initial, self.dtypes, strict=True)
        ]
        return [
            outer.constant(np.array(2**62), "unbounded"),
            outer.node("GreaterOrEqual", [self.most, least], "affordable"),
            outer.constant(np.array(times[0], dtype=np.float64), "start"),
            outer.constant(np.array(0.0), "none"),
            outer.constant(np.array(0), "zero"),
            outer.constant(np.array(False), "false"),
            *self.solve.initial,
            *zeros,
        ]

    def _input(self, name: str, dtype: ir.DataType, shape: Sequence[int]) -> ir.Value:
        name = self.inner.fresh(f"{self.name}.{name}")
        return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))

    def _like_states(self, name: str) -> States:
        return tuple(
            ir.Value(name=self.inner.fresh(f"{self.name}.{name}"), type=x.type, shape=x.shape)
            for x in self.solve.initial
        )

    def _started(
        self, iteration: ir.Value, time: ir.Value, proposed: ir.Value, spent: ir.Value,
        states: States, slopes: States,
    ) -> tuple[States, ir.Value, ir.Value]:
        """First slope, step and evaluations; found in the first iteration, carried in others."""
        inner = self.inner
        begins = inner.node("Equal", [iteration, inner.constant(np.array(0), "zero")], "begins")
        then, other = inner.child(), inner.child()
        copies = FieldCopies(
            self.solve.function, states, self.field.context, then, f"{self.name}.first", then
        )
        clock = Clock(then, self.solve.site.times[0], self.solve.site.times[-1], self.dtypes[0])

        def evaluate(at: ir.Value, x: States) -> States:
            return as_state(copies(clock.rounded(at), x), states, then)

        first, step = first_step(
            clock, evaluate, time, states, self.dtypes, (self.rtol, self.atol), self.pair.order - 1
        )
        cost = then.constant(np.array(START), "start_cost")
        found = [*first, step, then.node("Add", [spent, cost], "spent_first")]
        carried = [
            other.node("Identity", [v], f"{self.name}.carried", like=v)
            for v in (*slopes, proposed, spent)
        ]
        node = ir.Node(
            "",
            "If",
            [begins],
            [
                ir.AttrGraph("then_branch", _branch(then, found, f"{self.name}.first_step")),
                ir.AttrGraph("else_branch", _branch(other, carried, f"{self.name}.next_step")),
            ],
            num_outputs=len(found),
            name=inner.fresh(f"{self.name}/If"),
        )
        for output, like in zip(node.outputs, (*slopes, proposed, spent), strict=True):
            output.name = inner.fresh(f"{like.name}_now")
            output.type, output.shape = like.type, like.shape
        inner.nodes.append(node)
        *found_slopes, step, count = node.outputs
        return tuple(found_slopes), step, count

    def _stages(
        self, time: ir.Value, step: ir.Value, states: States, first: States
    ) -> tuple[list[States], States]:
        """All slopes of a step, the last at its end, and the state there."""
        pair, clock = self.pair, self.clock
        slopes, after = [first], states
        rows = [*pair.a[1:], pair.b]
        nodes = [float(c) for c in (*pair.c[1:], 1)]
        distinct = list(dict.fromkeys(nodes))
        at = dict(zip(distinct, clock.times(time, step, distinct), strict=True))
        used = [float(c) for row in rows for c in row] + error_weights(pair)
        for dtype in dict.fromkeys(self.dtypes):
            clock.prepare(step, used, dtype)
        for i, (c, row) in enumerate(zip(nodes, rows, strict=True)):
            after = self._combined(states, slopes, row, step, f"{self.name}.stage{i + 1}")
            slopes.append(as_state(self.field(at[c], after), states, self.inner))
        return slopes, after

    def _combined(
        self, base: States, slopes: Sequence[States], weights: Sequence[object], step: ir.Value,
        name: str,
    ) -> States:
        combined = []
        for i, (x, dtype) in enumerate(zip(base, self.dtypes, strict=True)):
            combine = Combinations(self.inner, x, dtype, self.clock.factors(step, dtype))
            terms = [(k[i], float(w)) for k, w in zip(slopes, weights, strict=False)]  # type: ignore[arg-type]
            combined.append(combine(x, terms, name))
        return tuple(combined)

    def _ratio(
        self, slopes: Sequence[States], states: States, after: States, step: ir.Value
    ) -> ir.Value:
        """Root mean square of the error in units of what is allowed, the largest of all tensors."""
        weights = error_weights(self.pair)
        nothing = [self.inner.scalar(0.0, dtype) for dtype in self.dtypes]
        norms = []
        for i, (x, y, dtype) in enumerate(zip(states, after, self.dtypes, strict=True)):
            combine = Combinations(self.inner, x, dtype, self.clock.factors(step, dtype))
            terms = [(k[i], w) for k, w in zip(slopes, weights, strict=True)]
            error = combine(nothing[i], terms, f"{self.name}.error")
            scale = self.clock.allowed([x, y], self.rtol, self.atol, dtype)
            norms.append(self.clock.norm(error, scale, dtype))
        return self.clock.largest(norms)

    def _between(
        self, time: ir.Value, step: ir.Value, accepted: ir.Value,
        states: States, after: States, slopes: Sequence[States],
    ) -> list[tuple[ir.Value, ir.Value, ir.Value]]:
        """Per state tensor, those at the times between the ends: before, after the step, first."""
        times = self.solve.site.times[1:-1]
        if not times:
            return []
        middle = self._combined(states, slopes, MIDDLE, step, f"{self.name}.middle")
        inner, clock, carried = self.inner, self.clock, []
        for i, (x, dtype) in enumerate(zip(self.solve.initial, self.dtypes, strict=True)):
            if x.shape is None:
                raise BadInput(f"The state of {self.name!r} has no known rank; capture it again.")
            column = inner.integers([len(times), *[1] * len(x.shape)])
            share = inner.node("Reshape", [clock.shares(times, time, step, dtype), column], "share")
            inside = clock.within(times, time, step, accepted)
            mask = inner.node("Reshape", [inside, column], "mask")
            old = ir.Value(
                name=inner.fresh(f"{self.name}.between"), type=x.type,
                shape=ir.Shape([len(times), *x.shape]),
            )  # fmt: skip
            ends = (states[i], after[i], slopes[0][i], slopes[-1][i])
            value = clock.interpolated(share, *ends, middle[i], step, dtype)
            new = inner.node("Where", [mask, value, old], f"{self.name}.at_times", like=old)
            count = self.outer.constant(np.array([len(times)]), "times")
            shape = self.outer.node("Shape", [x], "shape")
            whole = self.outer.node("Concat", [count, shape], "whole", attributes={"axis": 0})
            initial = self.outer.node("Expand", [x, whole], f"{self.name}.before", like=old)
            carried.append((old, new, initial))
        return carried

    def _trajectories(
        self, finals: Sequence[ir.Value], middles: Sequence[ir.Value]
    ) -> Sequence[ir.Value]:
        outer, initial = self.outer, self.solve.initial
        if not middles:
            return [stacked(pair, outer) for pair in zip(initial, finals, strict=True)]
        axis, whole = outer.integers([0]), []
        for x, middle, final in zip(initial, middles, finals, strict=True):
            ends = [outer.node("Unsqueeze", [v, axis], f"{self.name}.end") for v in (x, final)]
            parts = [ends[0], middle, ends[1]]
            whole.append(
                outer.node("Concat", parts, f"{self.name}.whole", attributes={"axis": 0})
            )
        return whole


def _branch(writer: Writer, outputs: Sequence[ir.Value], name: str) -> ir.Graph:
    return ir.Graph([], outputs, nodes=writer.nodes, name=name)
