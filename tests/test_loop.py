"""The loop form against the program it stands for, at every step count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from odegraphs import GRAPHS, Example, linear, run

from odedeploy.grid import Grid
from odedeploy.lowering import lower
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
