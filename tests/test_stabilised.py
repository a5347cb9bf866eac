"""Stabilised methods: exact order conditions, stability intervals, and what they save."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from odedeploy.errors import UnknownName
from odedeploy.grid import Grid
from odedeploy.program import build, interpret
from odedeploy.solvers import STABILISED, find
from odedeploy.solvers.stabilised import FAMILIES, MOST, method
from odedeploy.tableau import Tableau, order_residual

EVERY = [
    (family, stages)
    for family, known in FAMILIES.items()
    for stages in (known.fewest, known.fewest + 1, 5, 8, 11, 20)
]
every = pytest.mark.parametrize("family, stages", EVERY)


def amplification(tableau: Tableau, z: np.ndarray) -> np.ndarray:
    """R(z) of one step on dy/dt = λ y with z = h λ, shape (n,)."""
    rows = [[float(x) for x in row] for row in (*tableau.a, tableau.b)]
    slopes: list[np.ndarray] = []
    for row in rows:
        stage = 1.0 + sum((x * k for x, k in zip(row, slopes, strict=True)), 0.0 * z)
        slopes.append(z * stage)
    return slopes[-1] / z


@every
def test_order_conditions_hold_in_rationals_and_the_next_order_fails(
    family: str, stages: int
) -> None:
    tableau = method(family, stages)
    assert tableau.stages == stages and tableau.order == FAMILIES[family].order
    for order in range(1, tableau.order + 1):
        assert order_residual(tableau.a, tableau.b, order) == 0
    assert order_residual(tableau.a, tableau.b, tableau.order + 1) > Fraction(1, 10**3)
    assert all(0 <= c <= 1 for c in tableau.c)


@every
def test_the_stability_interval_is_as_long_as_it_says_and_not_longer(
    family: str, stages: int
) -> None:
    tableau, reach = method(family, stages), float(FAMILIES[family].interval(stages))
    inside = amplification(tableau, -np.linspace(1e-9, reach, 4001))
    assert np.abs(inside).max() <= 1 + 1e-9
    beyond = amplification(tableau, -reach * np.linspace(1.02, 1.2, 10))
    assert np.abs(beyond).max() > 1


@pytest.mark.parametrize(
    "family, share", [("rkc1", 1.9), ("rkc2", 0.62), ("rkl1", 1.0), ("rkl2", 0.49)]
)
def test_the_interval_grows_with_the_square_of_the_stages(family: str, share: float) -> None:
    for stages in (5, 10, 20):
        assert float(FAMILIES[family].interval(stages)) >= share * stages**2


def test_any_number_of_stages_is_found_by_name() -> None:
    assert find("rkc2_6") is method("rkc2", 6) and find("rkl1_9").stages == 9
    assert all(find(name).name == name for name in STABILISED)
    for name in ("rkc2_1", "rkl2_2", f"rkc1_{MOST + 1}", "rkc2_", "rkc3_5", "rkc2_-5", "rkc2_5.0"):
        with pytest.raises(UnknownName):
            find(name)


@every
def test_one_step_on_a_stiff_field_stays_bounded_where_euler_explodes(
    family: str, stages: int
) -> None:
    rates = np.linspace(0.0, float(FAMILIES[family].interval(stages)), 17)
    y0 = np.ones(17)
    (_, end) = interpret(
        build(method(family, stages), Grid.uniform(0.0, 1.0, 1)), lambda t, y: -rates * y, y0
    )
    assert np.abs(end).max() <= 1 + 1e-9
    euler = build(find("euler"), Grid.uniform(0.0, 1.0, stages))
    exploded = np.abs(interpret(euler, lambda t, y: -rates * y, y0)[-1]).max() > 1.5
    assert exploded or stages < 4
