"""The loop form: one step of a solver as the body of a Scan, its number of steps a run-time input.

Method and grid rule, equal steps between output times, are those of the plan; the input ``steps``
counts the steps of all solves together and has the plan's number as its default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import onnx_ir as ir

from odedeploy.errors import BadInput
from odedeploy.graph import OdeGraph
from odedeploy.lowering import unrolled
from odedeploy.lowering.combination import Combinations
from odedeploy.lowering.expression import Expression
from odedeploy.lowering.field import FieldCopies
from odedeploy.lowering.steps import Steps, adams, lay_out
from odedeploy.lowering.surgery import (
    Solve,
    States,
    as_state,
    optional_input,
    rewritten,
    stacked,
)
from odedeploy.lowering.writer import Writer
from odedeploy.program import Plan, SolvePlan, build
from odedeploy.solvers import SOLVERS
from odedeploy.tableau import Adams, Tableau

STEPS = "steps"
"""Name of the input that holds the number of steps of all solves together, int64, 0-d."""


def loop(graph: OdeGraph, plan: Plan) -> ir.Model:
    """A copy of the graph's model in which each solve is a Scan over the steps of its plan.

    Fixed-step calls that are kept stay unrolled. Raises BadInput for a plan that is no solver of
    the catalogue on equal steps between output times, and for a model with an input called
    ``steps``.
    """
    counts = {s.name: step_counts(plan[s.name]) for s in graph.sites if s.kept is None}
    total = sum(sum(each) for each in counts.values())

    def write(solve: Solve, writer: Writer) -> Sequence[ir.Value]:
        planned, name = plan[solve.site.name], solve.site.name
        if name not in counts:
            return unrolled.write(solve, planned, writer)
        if len(counts[name]) != len(solve.site.times) - 1:
            raise BadInput(
                f"The plan of {name!r} delivers {len(counts[name]) + 1} states where the model "
                f"asks for {len(solve.site.times)}; make the plan for this model."
            )
        asked = optional_input(writer.graph, STEPS, np.array(total))
        times = [planned.grid.times[i] for i in planned.grid.outputs]
        steps = lay_out(writer, times, counts[name], total, asked)
        method = SOLVERS[planned.solver]
        body = _runge_kutta if isinstance(method, Tableau) else _adams
        return body(solve, method, steps, writer)  # type: ignore[arg-type]

    return rewritten(graph, write)


def step_counts(plan: SolvePlan) -> tuple[int, ...]:
    """Steps in each interval between output times; raises BadInput where they are not equal."""
    grid, method = plan.grid, SOLVERS.get(plan.solver)
    ends = grid.outputs
    pairs = list(zip(ends, ends[1:], strict=False))
    whole = ends[0] == 0 and ends[-1] == grid.steps and all(a < b for a, b in pairs)
    if method is None or not whole or not _equal(grid.times, pairs):
        raise BadInput(
            f"The loop form takes equal steps of a solver of the catalogue between output times, "
            f"and the plan of {plan.site!r} ({plan.solver}) is none; write the unrolled form."
        )
    if build(method, grid) != plan.program:
        raise BadInput(
            f"The program of {plan.site!r} is not that of {plan.solver!r} on its grid; write the "
            "unrolled form."
        )
    return tuple(b - a for a, b in pairs)


def _equal(times: Sequence[float], pairs: Sequence[tuple[int, int]]) -> bool:
    return all(
        np.allclose(times[a : b + 1], np.linspace(times[a], times[b], b - a + 1), 1e-12, 1e-12)
        for a, b in pairs
    )


@dataclass
class _Body:
    """The body of a Scan in the making.

    ``carried`` are values that go from step to step, as (value before the loop, value in the body,
    value after a step); ``sliced`` are values given anew to each step, as (all of them, one).
    """

    outer: Writer
    inner: Writer
    carried: list[tuple[ir.Value, ir.Value, ir.Value]] = field(default_factory=list)
    sliced: list[tuple[ir.Value, ir.Value]] = field(default_factory=list)

    @classmethod
    def of(cls, outer: Writer) -> _Body:
        return cls(outer, outer.child())

    def carry(self, initial: ir.Value, name: str) -> ir.Value:
        """The value in the body of what is ``initial`` before the loop."""
        return ir.Value(name=self.inner.fresh(name), type=initial.type, shape=initial.shape)

    def slice(self, every: ir.Value, dtype: ir.DataType | None, name: str) -> ir.Value:
        """The element of the vector ``every`` that belongs to a step, 0-d."""
        type_ = None if dtype is None else ir.TensorType(dtype)
        one = ir.Value(name=self.inner.fresh(name), type=type_, shape=ir.Shape([]))
        self.sliced.append((every, one))
        return one

    def close(self, kept: Sequence[ir.Value], name: str) -> tuple[list[ir.Value], list[ir.Value]]:
        """Write the Scan: the carried values after the last step, and ``kept`` after every one."""
        copies = [self.inner.node("Identity", [v], f"{v.name}_kept", like=v) for v in kept]
        inputs = [inside for _, inside, _ in self.carried] + [one for _, one in self.sliced]
        outputs = [after for _, _, after in self.carried] + copies
        graph = ir.Graph(inputs, outputs, nodes=self.inner.nodes, name=f"{name}.step")
        scan = ir.Node(
            "",
            "Scan",
            [before for before, _, _ in self.carried] + [every for every, _ in self.sliced],
            [ir.AttrGraph("body", graph), ir.AttrInt64("num_scan_inputs", len(self.sliced))],
            num_outputs=len(outputs),
            name=self.outer.fresh(f"{name}/Scan"),
        )
        for output, inside in zip(scan.outputs, outputs, strict=True):
            output.name, output.type = self.outer.fresh(f"{inside.name}_end"), inside.type
        for output, (before, _, _) in zip(scan.outputs, self.carried, strict=False):
            output.shape = before.shape
        self.outer.nodes.append(scan)
        return list(scan.outputs[: len(self.carried)]), list(scan.outputs[len(self.carried) :])


def _runge_kutta(
    solve: Solve, method: Tableau, steps: Steps, writer: Writer
) -> Sequence[ir.Value]:
    body, name = _Body.of(writer), solve.site.name
    copies = FieldCopies(solve.function, solve.initial, solve.context, writer, name, body.inner)
    nodes = [float(c) for c in dict.fromkeys(method.c)]
    times, dtype = steps.times(nodes).cast(copies.time_dtype), copies.time_dtype
    rows = {
        c: body.slice(writer.node("Gather", [times, writer.constant(np.array(i), "stage")],
                                  f"{name}.times"), dtype, f"{name}.time")
        for i, c in enumerate(nodes)
    }  # fmt: skip
    states = tuple(body.carry(x, f"{name}.x") for x in solve.initial)
    combine = [
        Combinations(body.inner, x, kind, _factors(method, steps, body, kind))
        for x, kind in zip(states, solve.dtypes, strict=True)
    ]
    slopes: list[States] = []

    def combined(weights: Sequence[object], called: str) -> States:
        return tuple(
            combine[i](x, [(k[i], float(w)) for k, w in zip(slopes, weights, strict=False)], called)  # type: ignore[arg-type]
            for i, x in enumerate(states)
        )

    for i, (c, row) in enumerate(zip(method.c, method.a, strict=True)):
        stage = combined(row, f"{name}.stage{i}")
        slopes.append(as_state(copies(rows[float(c)], stage), states, body.inner))
    after = combined(method.b, f"{name}.next")
    body.carried += zip(solve.initial, states, after, strict=True)
    return _trajectories(solve, steps, body, after, 0)


def _factors(
    method: Tableau, steps: Steps, body: _Body, dtype: ir.DataType
) -> Callable[[float], ir.Value]:
    """From a coefficient to its product with the step size, computed once where steps are alike."""
    writer, size = body.outer, steps.size
    if steps.last is not None:
        writer = body.inner
        size = Expression(writer, body.slice(size.value, ir.DataType.DOUBLE, "step_size"))
    rows = [*method.a, method.b]
    coefficients = sorted({abs(float(w)) for row in rows for w in row if w})
    products = (Expression(writer, np.array(coefficients)) * Expression(writer, size.value)).cast(
        dtype
    )
    if len(coefficients) == 1:
        return {coefficients[0]: products}.__getitem__
    split = ir.node(
        "Split", [products], {"axis": 0, "num_outputs": len(coefficients)},
        num_outputs=len(coefficients), name=writer.fresh("factors/Split"),
    )  # fmt: skip
    for coefficient, output in zip(coefficients, split.outputs, strict=True):
        output.name = writer.fresh(f"factor_{coefficient:.6g}")
        output.type, output.shape = ir.TensorType(dtype), ir.Shape([1])
    writer.nodes.append(split)
    return dict(zip(coefficients, split.outputs, strict=True)).__getitem__


def _adams(solve: Solve, method: Adams, steps: Steps, writer: Writer) -> Sequence[ir.Value]:
    body, name = _Body.of(writer), solve.site.name
    copies = FieldCopies(solve.function, solve.initial, solve.context, writer, name, body.inner)
    times, weights = adams(steps, method)
    dtype = copies.time_dtype
    time = body.slice(times.cast(dtype), dtype, f"{name}.time")

    @cache
    def factors(kind: ir.DataType) -> list[ir.Value]:
        return [body.slice(w.cast(kind), kind, f"{name}.weight{m}") for m, w in enumerate(weights)]

    states = tuple(body.carry(x, f"{name}.x") for x in solve.initial)
    slopes = as_state(copies(time, states), states, body.inner)
    after, past = [], []
    for x, slope, initial, kind in zip(states, slopes, solve.initial, solve.dtypes, strict=True):
        zeros = _zeros(initial, kind, writer)
        earlier = [body.carry(initial, f"{name}.slope") for _ in weights[1:]]
        newest = [slope, *earlier]
        past += [
            (zeros, old, body.inner.node("Identity", [new], f"{name}.past", like=initial))
            for old, new in zip(earlier, newest, strict=False)
        ]
        combine = Combinations(body.inner, x, kind)
        terms = zip(newest, factors(kind), strict=True)
        after.append(combine.weighted(x, terms, f"{name}.next"))
    body.carried += [*zip(solve.initial, states, after, strict=True), *past]
    return _trajectories(solve, steps, body, after, int(method.start == "midpoint"))


def _zeros(like: ir.Value, dtype: ir.DataType, writer: Writer) -> ir.Value:
    zero = ir.tensor(np.zeros(1, dtype=dtype.numpy()))
    shape = writer.node("Shape", [like], f"{like.name}_shape")
    node = ir.node("ConstantOfShape", [shape], {"value": zero}, name=writer.fresh("zeros/node"))
    node.outputs[0].name = writer.fresh(f"{like.name}_zeros")
    node.outputs[0].type, node.outputs[0].shape = like.type, like.shape
    writer.nodes.append(node)
    return node.outputs[0]


def _trajectories(
    solve: Solve, steps: Steps, body: _Body, after: Sequence[ir.Value], delay: int
) -> Sequence[ir.Value]:
    """States at the output times; an evaluation comes ``delay`` rows after its step."""
    writer, name = body.outer, solve.site.name
    if steps.last is None:
        ends, _ = body.close((), name)
        pairs = zip(solve.initial, ends, strict=False)
        return [stacked(pair, writer) for pair in pairs]
    _, every = body.close(after, name)
    late = writer.constant(np.array(delay), "delay")
    rows = writer.node("Add", [steps.last, late], f"{name}.outputs")
    trajectories = []
    for x, states in zip(solve.initial, every, strict=True):
        picked = writer.node("Gather", [states, rows], f"{name}.picked")
        first = writer.node("Unsqueeze", [x, writer.integers([0])], f"{name}.first")
        whole = writer.node("Concat", [first, picked], f"{name}.whole", attributes={"axis": 0})
        trajectories.append(whole)
    return trajectories
