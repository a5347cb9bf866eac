"""Grids: pinned, monotone, and split in proportion."""

from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from odedeploy.errors import BadInput
from odedeploy.grid import Grid

times = st.floats(-100, 100)
monotone = st.builds(
    lambda start, gaps, sign: [start + sign * sum(gaps[:i]) for i in range(len(gaps) + 1)],
    times,
    st.lists(st.floats(0.01, 10), min_size=1, max_size=4),
    st.sampled_from([1, -1]),
)


@settings(deadline=None)
@given(times, times, st.integers(1, 300))
def test_uniform_grid_is_pinned_and_even(t0: float, t1: float, steps: int) -> None:
    assume(abs(t1 - t0) > 1e-6)
    grid = Grid.uniform(t0, t1, steps)
    assert (grid.times[0], grid.times[-1], grid.steps) == (t0, t1, steps)
    assert grid.outputs == (0, steps)
    h = (t1 - t0) / steps
    assert all(math.isclose(b - a, h, rel_tol=1e-6, abs_tol=1e-12) for a, b in pairwise(grid.times))


@settings(deadline=None)
@given(monotone, st.integers(1, 30))
def test_output_times_are_step_boundaries_bit_for_bit(outputs: list[float], steps: int) -> None:
    grid = Grid.through(outputs, steps)
    assert [grid.times[i] for i in grid.outputs] == outputs
    assert grid.steps == max(steps, len(outputs) - 1)
    direction = outputs[-1] - outputs[0]
    assert all((b - a) * direction > 0 for a, b in pairwise(grid.times))
    for (i, j), (a, b) in zip(pairwise(grid.outputs), pairwise(outputs), strict=True):
        for s, t in pairwise(grid.times[i : j + 1]):
            assert math.isclose(t - s, (b - a) / (j - i), rel_tol=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=3), st.integers(1, 9))
def test_no_other_split_has_a_shorter_longest_step(gaps: list[float], steps: int) -> None:
    outputs = [sum(gaps[:i]) for i in range(len(gaps) + 1)]
    lengths = [b - a for a, b in pairwise(outputs)]
    grid = Grid.through(outputs, steps)
    counts = [j - i for i, j in pairwise(grid.outputs)]
    best = min(
        max(length / n for length, n in zip(lengths, split, strict=True))
        for split in product(range(1, grid.steps + 1), repeat=len(lengths))
        if sum(split) == grid.steps
    )
    longest = max(length / n for length, n in zip(lengths, counts, strict=True))
    assert longest == pytest.approx(best)


@pytest.mark.parametrize(
    ("times", "outputs"),
    [
        ((0.0,), (0,)),
        ((), ()),
        ((0.0, 0.0), (0, 1)),
        ((0.0, 1.0, 1.0), (0, 2)),
        ((0.0, 1.0, 0.5), (0, 2)),
        ((0.0, 2.0, 1.0, 0.0), (0, 3)),
        ((0.0, math.nan), (0, 1)),
        ((math.nan, 1.0), (0, 1)),
        ((0.0, math.inf), (0, 1)),
        ((-1e308, 1e308), (0, 1)),
        ((0.0, 1.0), ()),
        ((0.0, 1.0), (0, 2)),
        ((0.0, 1.0), (-1, 1)),
    ],
)
def test_other_grids_are_refused(times: tuple[float, ...], outputs: tuple[int, ...]) -> None:
    with pytest.raises(BadInput):
        Grid(times, outputs)


@pytest.mark.parametrize(
    ("outputs", "steps"), [((0.0, 1.0), 0), ((0.0,), 3), ((), 1), ((0.0, 0.5, 0.5), 4)]
)
def test_other_requests_are_refused(outputs: tuple[float, ...], steps: int) -> None:
    with pytest.raises(BadInput):
        Grid.through(outputs, steps)


def test_more_steps_than_the_interval_has_numbers_are_refused() -> None:
    with pytest.raises(BadInput, match="strictly"):
        Grid.uniform(1.0, math.nextafter(1.0, 2.0), 2)
