"""Programs: which evaluations they make, what they combine, and what they mean."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odedeploy.errors import BadInput
from odedeploy.grid import Grid
from odedeploy.program import Combine, Evaluate, Plan, Program, build, interpret, solve_plan
from odedeploy.solvers import SOLVERS, find
from odedeploy.tableau import Adams, Method, Tableau
from odedeploy.tolerance import Tolerance

METHODS = list(SOLVERS.values())
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)

methods = st.sampled_from(METHODS)
grids = st.builds(
    lambda start, gaps, sign, outputs: Grid(
        tuple(start + sign * sum(gaps[:i]) for i in range(len(gaps) + 1)),
        (0, *sorted({1 + i % len(gaps) for i in outputs} | {len(gaps)})),
    ),
    st.floats(-10, 10),
    st.lists(st.floats(0.01, 0.5), min_size=1, max_size=6),
    st.sampled_from([1.0, -1.0]),
    st.sets(st.integers(0, 5)),
)


class Recorder:
    """The field −y·sin t, remembering the times at which it is evaluated."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, t: Any, y: np.ndarray) -> np.ndarray:
        self.times.append(float(t))
        return -y * math.sin(t)


def expected_times(method: Method, grid: Grid) -> list[float]:
    times: list[float] = []
    for i, (start, end) in enumerate(pairwise(grid.times)):
        if isinstance(method, Tableau):
            nodes = [float(c) for c in method.c]
            times += [end if c == 1 else start + c * (end - start) for c in nodes]
        else:
            times += [start]
            times += [start + (end - start) / 2] * (i == 0 and method.start == "midpoint")
    return times


@settings(deadline=None)
@given(methods, grids)
def test_field_is_evaluated_when_and_as_often_as_declared(method: Method, grid: Grid) -> None:
    program, field = build(method, grid), Recorder()
    states = interpret(program, field, np.ones(2))
    assert field.times == expected_times(method, grid) == list(program.times)
    assert len(field.times) == method.evaluations(grid.steps) == program.evaluations
    low, high = sorted((grid.times[0], grid.times[-1]))
    assert all(low <= t <= high for t in field.times)
    assert len(states) == len(grid.outputs)


@every_method
def test_stages_with_node_one_fall_on_the_grid(method: Method) -> None:
    grid = Grid((-1.0, 0.1, 0.7, 2.1), (0, 3))
    assert -1.0 + (0.1 + 1.0) != 0.1
    program = build(method, grid)
    if isinstance(method, Tableau):
        for i, (c, time) in enumerate(zip(method.c * grid.steps, program.times, strict=True)):
            step = i // method.stages
            assert (time == grid.times[step + 1]) == (float(c) == 1.0)


@settings(deadline=None)
@given(methods, grids)
def test_no_term_has_a_zero_coefficient_and_no_combination_is_empty(
    method: Method, grid: Grid
) -> None:
    for step in build(method, grid).instructions:
        if isinstance(step, Combine):
            assert step.terms and all(c != 0 and math.isfinite(c) for _, c in step.terms)


@every_method
def test_cost_grows_with_the_steps_and_not_with_their_square(method: Method) -> None:
    def terms(steps: int) -> tuple[int, int]:
        program = build(method, Grid.uniform(0.0, 1.0, steps))
        combines = [i for i in program.instructions if isinstance(i, Combine)]
        return len(combines), sum(len(c.terms) for c in combines)

    (few, few_terms), (many, many_terms) = terms(20), terms(40)
    per_step = 1
    if isinstance(method, Tableau):
        rows = (*method.a, method.b)
        per_step = sum(any(row) for row in rows)
        assert many_terms == 40 * sum(x != 0 for row in rows for x in row)
    else:
        assert many_terms - few_terms == 20 * method.history
    assert many - few == 20 * per_step


def test_heun3_skips_what_its_tableau_skips() -> None:
    program = build(find("heun3"), Grid.uniform(0.0, 3.0, 1))
    assert program.instructions == (
        Evaluate(0, 0.0, 0),
        Combine(1, 0, ((0, 1.0),)),
        Evaluate(1, 1.0, 1),
        Combine(2, 0, ((1, 2.0),)),
        Evaluate(2, 2.0, 2),
        Combine(3, 0, ((0, 0.75), (2, 2.25))),
    )


def test_adams_bashforth_reuses_its_history_and_ramps_up() -> None:
    program = build(find("ab2_euler"), Grid.uniform(0.0, 3.0, 3))
    assert program.instructions == (
        Evaluate(0, 0.0, 0),
        Combine(1, 0, ((0, 1.0),)),
        Evaluate(1, 1.0, 1),
        Combine(2, 1, ((1, 1.5), (0, -0.5))),
        Evaluate(2, 2.0, 2),
        Combine(3, 2, ((2, 1.5), (1, -0.5))),
    )


def test_midpoint_start_puts_the_first_slope_into_the_history() -> None:
    program = build(find("ab2_midpoint"), Grid.uniform(0.0, 2.0, 2))
    assert program.instructions == (
        Evaluate(0, 0.0, 0),
        Combine(1, 0, ((0, 0.5),)),
        Evaluate(1, 0.5, 1),
        Combine(2, 0, ((1, 1.0),)),
        Evaluate(2, 1.0, 2),
        Combine(3, 2, ((2, 1.5), (0, -0.5))),
    )


@settings(deadline=None)
@given(methods, grids)
def test_outputs_are_the_states_at_the_output_times(method: Method, grid: Grid) -> None:
    program, ones = build(method, grid), np.ones(1)
    clock = interpret(program, lambda t, y: ones, np.array([grid.times[0]]))
    wanted = [grid.times[i] for i in grid.outputs]
    np.testing.assert_allclose(np.concatenate(clock), wanted, rtol=1e-12, atol=1e-12)
    every = build(method, Grid(grid.times, tuple(range(grid.steps + 1))))
    states = interpret(every, Recorder(), ones)
    picked = interpret(program, Recorder(), ones)
    assert all((states[i] == y).all() for i, y in zip(grid.outputs, picked, strict=True))


@settings(deadline=None)
@given(methods, grids, st.floats(0.25, 4.0))
def test_scaling_time_and_the_field_together_changes_nothing(
    method: Method, grid: Grid, scale: float
) -> None:
    def field(t: Any, y: np.ndarray) -> np.ndarray:
        return np.cos(y) * math.sin(t)

    scaled = Grid(tuple(t * scale for t in grid.times), grid.outputs)
    plain = interpret(build(method, grid), field, np.array([0.3, -1.0]))
    other = interpret(
        build(method, scaled), lambda t, y: field(t / scale, y) / scale, np.array([0.3, -1.0])
    )
    np.testing.assert_allclose(np.stack(other), np.stack(plain), rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(methods, grids)
def test_reversing_time_and_the_sign_of_the_field_changes_nothing(
    method: Method, grid: Grid
) -> None:
    mirrored = Grid(tuple(-t for t in grid.times), grid.outputs)
    plain = interpret(build(method, grid), Recorder(), np.ones(1))
    other = interpret(build(method, mirrored), lambda t, y: -Recorder()(-t, y), np.ones(1))
    np.testing.assert_array_equal(np.stack(other), np.stack(plain))


@every_method
def test_there_and_back_again_returns_to_the_start(method: Method) -> None:
    start = np.array([1.0, -2.0])
    gaps = []
    for steps in (200, 400):
        there = interpret(build(method, Grid.uniform(0.2, 1.7, steps)), Recorder(), start)[-1]
        back = interpret(build(method, Grid.uniform(1.7, 0.2, steps)), Recorder(), there)[-1]
        gaps.append(float(np.linalg.norm(back - start)))
    assert gaps[1] <= max(gaps[0] / 2**method.order * 1.5, Tolerance.ROUND_OFF)


@settings(deadline=None)
@given(methods, grids)
def test_a_plan_survives_json_bit_for_bit(method: Method, grid: Grid) -> None:
    plan = Plan((solve_plan("first", method, grid), solve_plan("second", find("rk4"), grid)))
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert repr(again) == repr(plan)
    assert again["first"].solver == method.name
    assert again.evaluations == method.evaluations(grid.steps) + 4 * grid.steps


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        '{"solves": [{"site": "a"}]}',
        '{"solves": 3}',
        '{"solves": [{"site": "a", "solver": "euler", "times": [0, 1], "outputs": [0, 1], '
        '"program": [["g", 0, 0, 0]], "states": [0]}]}',
        '{"solves": [{"site": "a", "solver": "euler", "times": [0, 1], "outputs": [Infinity], '
        '"program": [], "states": [0]}]}',
        '{"solves": [{"site": "a", "solver": "euler", "times": [0, 1], "outputs": [0, 1], '
        '"program": [["x", 1, 0, [[0, 1.0]]]], "states": [0, 1]}]}',
    ],
)
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        Plan.from_json(json.loads(text))


def test_programs_that_read_the_unwritten_or_write_twice_are_refused() -> None:
    once = Evaluate(0, 0.0, 0)
    for instructions, outputs in [
        ((Evaluate(0, 0.0, 1),), (0,)),
        ((once, once), (0,)),
        ((Combine(1, 0, ((0, 1.0),)),), (0,)),
        ((once, Combine(0, 0, ((0, 1.0),))), (0,)),
        ((once,), (1,)),
    ]:
        with pytest.raises(BadInput):
            Program(instructions, outputs)


def test_unknown_sites_are_refused() -> None:
    plan = Plan((solve_plan("a", find("euler"), Grid.uniform(0.0, 1.0, 1)),))
    with pytest.raises(BadInput, match="'b'"):
        plan["b"]


@every_method
def test_tuples_of_arrays_are_solved_like_one_array(method: Method) -> None:
    def whole(t: Any, y: np.ndarray) -> np.ndarray:
        return np.stack([y[1] + t, -y[0]])

    def parts(t: Any, y: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        return y[1] + t, -y[0]

    program = build(method, Grid.through((0.0, 0.5, 1.0), 5))
    y0 = np.array([[1.0, 2.0], [0.5, -0.5]])
    one = interpret(program, whole, y0)
    two = interpret(program, parts, (y0[0], y0[1]))
    assert all((np.stack(b) == a).all() for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_method
def test_everything_stays_in_the_dtype_of_the_state(method: Method, dtype: Any) -> None:
    seen = set()

    def field(t: Any, y: np.ndarray) -> np.ndarray:
        seen.update((t.dtype, y.dtype))
        return -y.astype(np.float64) * float(t)

    program = build(method, Grid.uniform(0.0, 1.0, 4))
    states = interpret(program, field, np.ones((2, 3), dtype))
    assert seen == {np.dtype(dtype)} == {y.dtype for y in states}
    exact = interpret(program, field, np.ones((2, 3)))
    np.testing.assert_allclose(states[-1], exact[-1], rtol=Tolerance.FLOAT32)


def test_interpret_leaves_the_initial_state_alone() -> None:
    y0 = np.ones(3)
    first, last = interpret(build(find("rk4"), Grid.uniform(0.0, 1.0, 3)), Recorder(), y0)
    assert (y0 == 1).all() and (first == 1).all() and not (last == 1).any()


def test_fields_that_change_the_shape_and_integer_states_are_refused() -> None:
    program = build(find("euler"), Grid.uniform(0.0, 1.0, 1))
    with pytest.raises(BadInput, match=r"float64\[\] for a state of float64\[3\]"):
        interpret(program, lambda t, y: np.sum(y), np.ones(3))
    with pytest.raises(BadInput, match="int64"):
        interpret(program, lambda t, y: y, np.ones(3, np.int64))


def test_adams_on_a_single_step_is_its_start() -> None:
    grid = Grid((0.0, 0.7), (0, 1))
    for method in METHODS:
        if isinstance(method, Adams):
            assert build(method, grid) == build(find(method.start), grid)
