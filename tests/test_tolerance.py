"""The error of one input."""

from __future__ import annotations

import numpy as np
import pytest

from odedeploy.errors import BadInput
from odedeploy.tolerance import FLOOR, Tolerance, floor_of, relative_error, worst_error

REF = np.array([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])


def test_named_tolerances_compare_as_numbers_from_strict_to_loose() -> None:
    assert f"{Tolerance.FLOAT32:.0e}" == "1e-05"
    assert 0.0 == Tolerance.EXACT < Tolerance.ROUND_OFF < Tolerance.FLOAT32 < 1


def test_error_is_the_distance_over_the_norm_of_each_input() -> None:
    error = relative_error(REF + [[0.0, 1.0], [0.5, 0.0], [0.0, 0.0]], REF, floor=1e-6)
    np.testing.assert_allclose(error, [0.2, 0.25, 0.0])


def test_norm_runs_over_all_axes_but_the_batch_in_float64() -> None:
    ref = np.full((2, 3, 4), 1.0, np.float16)
    out = ref.copy()
    out[1] *= 2
    error = relative_error(out, ref, floor=1e-6)
    assert error.dtype == np.float64
    np.testing.assert_allclose(error, [0.0, 1.0])
    big = np.full((1, 2), 6e4, np.float16)
    assert np.isfinite(relative_error(big, -big, floor=1e-6)).all()


def test_vanishing_reference_is_judged_against_the_floor() -> None:
    floor = floor_of(REF)
    assert floor == FLOOR * 2.0
    error = relative_error(REF + 1e-6, REF, floor)
    assert error[2] == pytest.approx(np.sqrt(2) * 1e-6 / floor)
    assert error[0] < 1e-6


@pytest.mark.parametrize(
    ("norms", "floor"),
    [([0.0, 0.0], 1.0), ([0.0, 0.0, 5.0], 5 * FLOOR), ([], 1.0), ([np.nan, 2.0], 2 * FLOOR)],
)
def test_floor_is_positive_for_every_reference(norms: list[float], floor: float) -> None:
    assert floor_of(np.array(norms)[:, None]) == pytest.approx(floor)


def test_floor_survives_underflow_and_discrete_references() -> None:
    assert floor_of(np.full((2, 1), 5e-324)) > 0
    assert floor_of(np.array(["cat", "dog"])) == floor_of(np.array([3, 4])) == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_infinitely_wrong(bad: float) -> None:
    broken = REF.copy()
    broken[1, 0] = bad
    assert relative_error(broken, REF, 1e-6).tolist() == [0.0, np.inf, 0.0]
    assert relative_error(REF, broken, 1e-6).tolist() == [0.0, np.inf, 0.0]
    assert relative_error(broken, broken, 1e-6).tolist() == [0.0, np.inf, 0.0]


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, np.str_])
def test_discrete_outputs_are_right_or_wrong(dtype: type) -> None:
    ref = np.array([[0, 1], [1, 1]]).astype(dtype)
    out = ref.copy()
    out[1, 0] = ref[0, 0]
    assert relative_error(out, ref, 1e-6).tolist() == [0.0, np.inf]


def test_worst_of_several_outputs_counts_for_each_input() -> None:
    reference = {"y": REF[:2], "label": np.array([1, 2])}
    outputs = {"label": np.array([1, 3]), "y": REF[:2] + [[0.0, 1.0], [0.0, 0.0]]}
    assert worst_error(outputs, reference).tolist() == [0.2, np.inf]


def test_given_floors_make_an_input_independent_of_its_companions() -> None:
    floors = {"y": floor_of(REF)}
    whole = worst_error({"y": REF + 1e-7}, {"y": REF}, floors)
    alone = worst_error({"y": REF[2:] + 1e-7}, {"y": REF[2:]}, floors)
    assert alone == whole[2:]


@pytest.mark.parametrize(
    ("outputs", "reference"),
    [
        ({}, {}),
        ({"a": REF}, {"b": REF}),
        ({"a": REF, "b": REF}, {"a": REF}),
        ({"a": REF}, {"a": REF[:2]}),
        ({"a": REF[:, :1]}, {"a": REF}),
        ({"a": np.float64(1)}, {"a": np.float64(1)}),
        ({"a": REF, "b": REF[:2]}, {"a": REF, "b": REF[:2]}),
    ],
)
def test_what_cannot_be_compared_is_refused(
    outputs: dict[str, np.ndarray], reference: dict[str, np.ndarray]
) -> None:
    with pytest.raises(BadInput):
        worst_error(outputs, reference)


def test_floor_must_be_positive() -> None:
    with pytest.raises(BadInput, match="floor"):
        relative_error(REF, REF, 0.0)
