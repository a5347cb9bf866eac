"""The loop form against the program it stands for, at every step count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from odegraphs import GRAPHS, Builder, Example, convolution, linear, run

from odedeploy.errors import BadInput
from odedeploy.graph import OdeGraph, Site
from odedeploy.grid import Grid
from odedeploy.lowering import lower
from odedeploy.passes import clean
from odedeploy.program import Plan, interpret, solve_plan
from odedeploy.solvers import SOLVERS
from odedeploy.tolerance import Tolerance

TIMES = {
    "forward": (0.0, 1.0),
    "reversed": (1.0, -0.5),
    "several": (0.0, 0.1, 0.3, 1.0),
    "several reversed": (1.0, 0.5, 0.4, -0.5),
}
STEPS = 6
PRECISION = {np.float64: Tolerance.ROUND_OFF, np.float32: Tolerance.FLOAT32}


def plan_of(solver: str, times: tuple[float, ...], steps: int) -> Plan:
    return Plan((solve_plan("solve0", SOLVERS[solver], Grid.through(times, steps)),))


def wanted(example: Example, plan: Plan, inputs: dict[str, Any]) -> list[np.ndarray]:
    program = plan.solves[0].program
    return example.finish(interpret(program, example.field(inputs), example.initial(inputs)))


def assert_close(given: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> None:
    for a, b in zip(given, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", GRAPHS)
def test_the_default_is_the_plan(name: str, solver: str, times: str) -> None:
    example, plan = GRAPHS[name](np.float64, TIMES[times]), plan_of(solver, TIMES[times], STEPS)
    model, inputs = lower(example.graph, plan, "loop"), example.inputs(3)
    assert_close(run(model, inputs), wanted(example, plan, inputs), Tolerance.ROUND_OFF)


@pytest.mark.parametrize("solver", SOLVERS)
def test_steps_is_a_run_time_input(solver: str) -> None:
    example = linear(np.float64, (0.0, 1.5), last=False)
    model = lower(example.graph, plan_of(solver, (0.0, 1.5), STEPS), "loop")
    for steps in (1, 2, 3, 4, 5, 9, 40):
        inputs = example.inputs(2)
        plan = plan_of(solver, (0.0, 1.5), steps)
        given = run(model, {**inputs, "steps": np.array(steps)})
        assert_close(given, wanted(example, plan, inputs), Tolerance.ROUND_OFF)


def in_proportion(times: tuple[float, ...], solver: str, base: int, times_as_many: int) -> Plan:
    """The plan with every interval's steps multiplied."""
    grid = Grid.through(times, base)
    fine = [grid.times[0]]
    for a, b in zip(grid.times, grid.times[1:], strict=False):
        fine += [a + (b - a) * k / times_as_many for k in range(1, times_as_many)] + [b]
    outputs = tuple(i * times_as_many for i in grid.outputs)
    return Plan((solve_plan("solve0", SOLVERS[solver], Grid(tuple(fine), outputs)),))


@pytest.mark.parametrize("solver", SOLVERS)
def test_steps_are_shared_by_the_intervals_in_proportion(solver: str) -> None:
    times = TIMES["several reversed"]
    example = linear(np.float64, times, last=False)
    model = lower(example.graph, plan_of(solver, times, STEPS), "loop")
    for many in (2, 3):
        inputs = example.inputs(2)
        given = run(model, {**inputs, "steps": np.array(many * STEPS)})
        plan = in_proportion(times, solver, STEPS, many)
        assert_close(given, wanted(example, plan, inputs), Tolerance.ROUND_OFF)
    least = plan_of(solver, times, len(times) - 1)
    assert_close(
        run(model, {**inputs, "steps": np.array(1)}),
        wanted(example, least, inputs),
        Tolerance.ROUND_OFF,
    )


@pytest.mark.parametrize("times", ("forward", "several"))
@pytest.mark.parametrize("name", GRAPHS)
def test_passes_leave_a_loop_as_it_is(name: str, times: str) -> None:
    example = GRAPHS[name](np.float32, TIMES[times])
    for solver in ("rk4", "ab3_midpoint", "dopri5"):
        plan = plan_of(solver, TIMES[times], STEPS)
        model, inputs = lower(example.graph, plan, "loop"), example.inputs(3)
        before = run(model, inputs)
        assert_close(run(clean(model), inputs), before, Tolerance.FLOAT32)
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        names = [v.name for g in model.graphs() for v in (*g.inputs, *_outputs(g))]
        assert len(set(names)) == len(names)


def _outputs(graph: ir.Graph) -> list[ir.Value]:
    return [value for node in graph for value in node.outputs if value.name]


def test_weights_live_once_and_in_the_body() -> None:
    graph = convolution()
    plan = plan_of("rk4", (0.0, 1.0), STEPS)
    model = clean(lower(graph, plan, "loop"))
    large = [
        (body.name, value.name)
        for body in model.graphs()
        for value in body.initializers.values()
        if value.const_value is not None and value.const_value.size > 50
    ]
    assert large == [("solve0.step", "solve0.step.conv.weight")]
    image = np.random.default_rng(0).standard_normal((2, 3, 5, 5)).astype(np.float32)
    unrolled = run(lower(graph, plan), {"x": image})
    assert_close(run(model, {"x": image}), unrolled, Tolerance.FLOAT32)
    body = next(g for g in model.graphs() if g.name == "solve0.step")
    kinds = [node.op_type for node in body]
    assert "Concat" not in kinds and kinds.count("Conv") == 4 + 1, "time is a map, made once"


def test_two_solves_share_the_steps() -> None:
    """There and back: the second solve starts where the first ends, with half of its steps."""
    f, m = Builder(np.dtype(np.float64)), Builder(np.dtype(np.float64))
    t, y = f.value("t", []), f.value("y", ["batch", 3])
    function = f.function("field0", [t, y], [f.op("Mul", y, f.op("Cos", t, name="c"), name="k")])
    x, last = m.value("x", ["batch", 3]), m.integers("last", -1)
    (there,) = m.solve("solve0", [x], [], 2)
    end = m.op("Gather", there, last, name="end", shape=["batch", 3], axis=0)
    (back,) = m.solve("solve1", [end], [], 2)
    spans = ((0.0, 1.0), (1.0, 0.0))
    sites = tuple(Site(f"solve{i}", "field0", span, 1, "x") for i, span in enumerate(spans))
    graph = OdeGraph(m.model([x], [there, back], [function]), sites)

    def plans(times_as_many: int) -> Plan:
        return Plan(
            tuple(
                solve_plan(site.name, SOLVERS[solver], Grid.uniform(*span, n * times_as_many))
                for site, span, solver, n in zip(
                    sites, spans, ("ab2_midpoint", "rk4"), (4, 2), strict=True
                )
            )
        )

    model, x0 = lower(graph, plans(1), "loop"), np.random.default_rng(0).standard_normal((2, 3))
    for many in (1, 2, 5):
        first = interpret(plans(many).solves[0].program, lambda t, y: y * np.cos(t), x0)
        second = interpret(plans(many).solves[1].program, lambda t, y: y * np.cos(t), first[-1])
        given = run(model, {"x": x0, "steps": np.array(6 * many)})
        assert_close(given, [np.stack(first), np.stack(second)], Tolerance.ROUND_OFF)


def test_what_a_loop_cannot_hold_is_refused() -> None:
    example = linear(np.float32)
    uneven = Grid((0.0, 0.1, 0.4, 1.0), (0, 3))
    plan = Plan((solve_plan("solve0", SOLVERS["rk4"], uneven),))
    with pytest.raises(BadInput, match="equal steps of a solver of the catalogue"):
        lower(example.graph, plan, "loop")
    with pytest.raises(BadInput, match="delivers 3 states where the model asks for 2"):
        lower(example.graph, plan_of("rk4", (0.0, 0.5, 1.0), 4), "loop")
    kept = plan_of("rk4", (0.0, 1.0), 4)
    sites = tuple(replace(site, kept=kept.solves[0]) for site in example.graph.sites)
    with pytest.raises(BadInput, match="No solve of this model is free"):
        lower(replace(example.graph, sites=sites), kept, "loop")
    example.graph.model.graph.inputs[0].name = "steps"
    with pytest.raises(BadInput, match="has an input 'steps' already"):
        lower(example.graph, kept, "loop")
