"""The catalogue: order conditions in exact rationals, measured orders, torchdiffeq's names."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torchdiffeq

from odedeploy.errors import UnknownName
from odedeploy.grid import Grid
from odedeploy.program import build, interpret
from odedeploy.solvers import LADDER, REFERENCE, SOLVERS, STABILISED, TORCHDIFFEQ, find
from odedeploy.tableau import Adams, Method, Tableau, adams_weights, order_residual
from odedeploy.tolerance import Tolerance

TABLEAUS = [m for m in SOLVERS.values() if isinstance(m, Tableau)]
ADAMS = [m for m in SOLVERS.values() if isinstance(m, Adams)]
DECIMALS = Fraction(1, 10**13)

Field = Callable[[Any, Any], Any]


def by_name(methods: list[Any]) -> Any:
    return pytest.mark.parametrize("method", methods, ids=lambda m: m.name)


@by_name(TABLEAUS)
def test_order_conditions_hold_in_rationals_and_the_next_order_fails(method: Tableau) -> None:
    allowed = 0 if method.exact else DECIMALS
    for order in range(1, method.order + 1):
        assert order_residual(method.a, method.b, order) <= allowed
    assert order_residual(method.a, method.b, method.order + 1) > Fraction(1, 10**6)


@by_name([m for m in TABLEAUS if m.b_low])
def test_embedded_weights_have_their_declared_order(method: Tableau) -> None:
    assert method.b_low is not None and method.order_low is not None
    rows = (*method.a, method.b)[: len(method.b_low)]
    allowed = 0 if method.exact else DECIMALS
    for order in range(1, method.order_low + 1):
        assert order_residual(rows, method.b_low, order) <= allowed
    assert order_residual(rows, method.b_low, method.order_low + 1) > Fraction(1, 10**6)


@by_name(TABLEAUS)
def test_stages_stay_inside_the_step(method: Tableau) -> None:
    assert all(0 <= float(c) <= 1 for c in method.c)


@by_name(ADAMS)
def test_adams_weights_are_exact_to_the_history_and_no_further(method: Adams) -> None:
    nodes = [Fraction(-m) for m in range(method.history)]
    weights = adams_weights(nodes)
    misses = [
        sum(w * s**p for w, s in zip(weights, nodes, strict=True)) - Fraction(1, p + 1)
        for p in range(method.history + 1)
    ]
    assert misses[:-1] == [0] * method.history and misses[-1] != 0


@by_name(list(SOLVERS.values()))
def test_steps_inverts_evaluations(method: Method) -> None:
    costs = {method.evaluations(steps): steps for steps in range(1, 40)}
    for nfe in range(-2, method.evaluations(39) + 1):
        assert method.steps(nfe) == costs.get(nfe)


@by_name(list(SOLVERS.values()))
def test_every_entry_names_itself_and_its_source(method: Method) -> None:
    assert find(method.name) is method
    assert any(str(year) in method.source for year in range(1700, 2030))


def test_ladder_is_the_catalogue_without_the_reference_method() -> None:
    assert set(LADDER) == set(SOLVERS) - {REFERENCE} - set(STABILISED)
    assert find(REFERENCE).order == max(method.order for method in SOLVERS.values()) == 8


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'dopri5'"):
        find("dopri_5")


def test_importing_the_catalogue_is_quick_and_loads_no_framework() -> None:
    code = (
        "import time, dataclasses, fractions, odedeploy.errors; t = time.process_time(); "
        "import odedeploy.solvers, sys; "
        "print(time.process_time() - t, 'numpy' in sys.modules, 'torch' in sys.modules)"
    )
    seconds, *loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert loaded == ["False", "False"]
    assert float(seconds) < 0.1


# Measured orders. Both solutions are circles of varying speed: neutrally stable, so that errors
# stay above round-off while steps get small.


def angle(t: float) -> float:
    return t + math.sin(t) / 2


def solution(t: float) -> np.ndarray:
    return np.array([math.cos(angle(t)), math.sin(angle(t))])


def linear(t: float, y: np.ndarray) -> np.ndarray:
    return (1 + math.cos(t) / 2) * np.array([-y[1], y[0]])


def nonlinear(t: float, y: np.ndarray) -> np.ndarray:
    return (1 + (y @ y - 1) / 4) * linear(t, y)


def uniform(steps: int) -> Grid:
    return Grid.uniform(0.3, 6.3, steps)


def nonuniform(steps: int) -> Grid:
    fractions = [k / steps for k in range(steps)]
    warped = [s + 0.4 * math.sin(2 * math.pi * s) / (2 * math.pi) for s in fractions]
    return Grid((*(0.3 + 6.0 * s for s in warped), 6.3), (0, steps))


def reverse(steps: int) -> Grid:
    return Grid.uniform(6.3, 0.3, steps)


FEWEST_STEPS = {1: 400, 2: 400, 3: 400, 4: 200, 5: 200, 8: 30}
"""Where the leading error term dominates, by order, and twice as many stay above round-off."""


@pytest.mark.parametrize("grid", [uniform, nonuniform, reverse])
@pytest.mark.parametrize("field", [linear, nonlinear])
@by_name(list(SOLVERS.values()))
def test_measured_order_is_the_declared_one(
    method: Method, field: Field, grid: Callable[[int], Grid]
) -> None:
    fewest = FEWEST_STEPS[method.order]
    counts = [fewest, fewest * 3 // 2, fewest * 2]
    errors = []
    for steps in counts:
        times = grid(steps)
        final = interpret(build(method, times), field, solution(times.times[0]))[-1]
        errors.append(np.linalg.norm(final - solution(times.times[-1])))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(method.order, abs=0.15)


@pytest.mark.parametrize("times", [(0.0, 0.3, 0.4, 1.0), (1.0, 0.9, -0.5), (0.0, 2.0)])
@pytest.mark.parametrize("theirs", TORCHDIFFEQ)
def test_torchdiffeq_names_mean_the_same_method(theirs: str, times: tuple[float, ...]) -> None:
    matrix = torch.linspace(-1.0, 1.0, 9, dtype=torch.float64).reshape(3, 3)
    start = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)

    def field(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.tanh(matrix @ y + t) * y

    def as_numpy(t: np.float64, y: np.ndarray) -> np.ndarray:
        return field(torch.tensor(t), torch.from_numpy(y)).numpy()

    expected = torchdiffeq.odeint(
        field, start, torch.tensor(times, dtype=torch.float64), method=theirs
    ).numpy()
    grid = Grid.through(times, 1)
    states = interpret(build(find(TORCHDIFFEQ[theirs]), grid), as_numpy, start.numpy())
    np.testing.assert_allclose(np.stack(states), expected, rtol=Tolerance.ROUND_OFF, atol=0)


def test_every_fixed_step_runge_kutta_of_torchdiffeq_is_mapped() -> None:
    from torchdiffeq._impl import fixed_grid
    from torchdiffeq._impl.odeint import SOLVERS as THEIRS

    fixed = {name for name, cls in THEIRS.items() if cls.__module__ == fixed_grid.__name__}
    assert set(TORCHDIFFEQ) == fixed
    assert set(TORCHDIFFEQ.values()) <= set(LADDER)
