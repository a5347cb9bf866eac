"""Tableaus and Adams methods as data: what is computed, and what is refused."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odedeploy.errors import BadInput
from odedeploy.tableau import Adams, Tableau, adams_weights, order_residual, rooted_trees

HALF = Fraction(1, 2)


def test_rooted_trees_are_counted_as_by_cayley() -> None:
    assert [len(set(rooted_trees(n))) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]
    assert all(tree.vertices == 5 for tree in rooted_trees(5))


def test_densities_of_order_four() -> None:
    assert sorted(tree.density for tree in rooted_trees(4)) == [4, 8, 12, 24]


def test_residual_is_the_same_in_floats_and_fractions() -> None:
    a, b = ((), (HALF,)), (Fraction(0), Fraction(1))
    floats = order_residual([[], [0.5]], [0.0, 1.0], 3)
    assert order_residual(a, b, 2) == 0
    assert order_residual(a, b, 3) == Fraction(1, 6) == pytest.approx(floats)


def test_ragged_text_becomes_a_strictly_lower_triangle() -> None:
    kutta = Tableau.of("kutta", 3, ("1/2", "-1 2"), "1/6 2/3 1/6", "test")
    assert kutta.a == ((), (HALF,), (Fraction(-1), Fraction(2)))
    assert kutta.c == (0, HALF, 1)
    assert kutta.stages == 3
    assert hash(kutta) == hash(Tableau.of("kutta", 3, ("1/2", "-1 2"), "1/6 2/3 1/6", "test"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": ("1/2", "-1 2 0")}, "lengths"),
        ({"a": ("1/2",)}, "lengths"),
        ({"order": 0}, "order 0"),
        ({"order": 4}, "order-4 condition"),
        ({"b": "1/6 2/3 1/5"}, "order-1 condition"),
        ({"b": "1/5 19/30 1/6"}, "order-2 condition"),
        ({"b_low": "1 0 0"}, "both b_low and order_low"),
        ({"order_low": 2}, "both b_low and order_low"),
        ({"b_low": "1 0", "order_low": 1}, "2 embedded weights"),
        ({"b_low": "1 0 0", "order_low": 2}, "order-2 condition"),
    ],
)
def test_wrong_tableaus_are_refused(changes: dict[str, object], message: str) -> None:
    kutta = {"order": 3, "a": ("1/2", "-1 2"), "b": "1/6 2/3 1/6", "source": "test"}
    with pytest.raises(BadInput, match=message) as caught:
        Tableau.of("kutta", **{**kutta, **changes})
    assert "'kutta'" in str(caught.value)


def test_wrong_adams_methods_are_refused() -> None:
    with pytest.raises(BadInput, match="1 slopes"):
        Adams("ab1", 1, "euler", "test")
    with pytest.raises(BadInput, match="'rk4'"):
        Adams("ab2", 2, "rk4", "test")  # type: ignore[arg-type]


@pytest.mark.parametrize(("start", "orders"), [("euler", [2, 2, 2, 2]), ("midpoint", [2, 3, 3, 3])])
def test_start_caps_the_order(start: str, orders: list[int]) -> None:
    assert [Adams("ab", k, start, "test").order for k in (2, 3, 4, 5)] == orders  # type: ignore[arg-type]


def test_uniform_adams_weights_are_the_textbook_ones() -> None:
    scaled = {2: [3, -1], 3: [23, -16, 5], 4: [55, -59, 37, -9]}
    for k, denominator in ((2, 2), (3, 12), (4, 24)):
        weights = adams_weights([Fraction(-m) for m in range(k)])
        assert [w * denominator for w in weights] == scaled[k]


gaps = st.lists(st.floats(0.1, 5.0), min_size=0, max_size=3)


@settings(deadline=None)
@given(gaps)
def test_adams_weights_solve_the_moment_equations(gaps: list[float]) -> None:
    nodes = [Fraction(0)]
    for gap in gaps:
        nodes.append(nodes[-1] - Fraction(gap))
    weights = adams_weights(nodes)
    for p in range(len(nodes)):
        assert sum(w * s**p for w, s in zip(weights, nodes, strict=True)) == Fraction(1, p + 1)
    missed = sum(w * s ** len(nodes) for w, s in zip(weights, nodes, strict=True))
    assert missed != Fraction(1, len(nodes) + 1)

    vandermonde = np.array([[float(s) ** p for s in nodes] for p in range(len(nodes))])
    moments = [1 / (p + 1) for p in range(len(nodes))]
    solved = np.linalg.solve(vandermonde, moments)
    assert all(a > b for a, b in pairwise(nodes))
    np.testing.assert_allclose([float(w) for w in weights], solved, rtol=1e-7, atol=1e-9)
    floats = adams_weights([float(s) for s in nodes])
    np.testing.assert_allclose(floats, [float(w) for w in weights], rtol=1e-9, atol=1e-11)
