"""Three disjoint splits, seeded, each a type of its own."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_models import model_of, network, points

from odedeploy.errors import BadInput
from odedeploy.reference import solve
from odedeploy.search import Certify, Fit, Validate, minimum_samples, split
from odedeploy.search.measure import certify, rank
from odedeploy.search.splits import shares
from odedeploy.spec import ExportSpec

SPEC = ExportSpec(tol=1e-2)


def numbered(n: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(n, dtype=np.float32)[:, None], "label": np.arange(n)}


@pytest.mark.parametrize("n", [3, 4, 10, 307, 350, 1000])
def test_splits_are_disjoint_and_complete(n: int) -> None:
    splits = split(numbered(n), SPEC)
    parts = [splits.fit, splits.validate, splits.certify]
    assert [type(part) for part in parts] == [Fit, Validate, Certify]
    assert all(len(part) > 0 for part in parts)
    labels = np.concatenate([part.inputs["label"] for part in parts])
    assert sorted(labels) == list(range(n))
    for part in parts:
        assert np.array_equal(splits.inputs["label"][part.rows], part.inputs["label"])
        assert np.array_equal(part.inputs["x"][:, 0], part.inputs["label"])


def test_seed_decides_the_order() -> None:
    first, again, other = (split(numbered(50), ExportSpec(tol=1, seed=s)) for s in (1, 1, 2))
    assert np.array_equal(first.certify.inputs["label"], again.certify.inputs["label"])
    assert not np.array_equal(first.certify.inputs["label"], other.certify.inputs["label"])


@pytest.mark.parametrize("coverage", [0.9, 0.95, 0.99])
def test_certification_comes_first(coverage: float) -> None:
    needed = minimum_samples(coverage, 0.95)
    for n in range(3, 1000):
        parts = shares(n, coverage, 0.95)
        assert sum(parts) == n
        assert min(parts) >= 1
        if n >= needed + 8:
            assert parts[2] >= max(needed, n // 2)


def test_samples_caps_the_inputs() -> None:
    splits = split(numbered(100), ExportSpec(tol=1, samples=20))
    assert len(splits.inputs["x"]) == 20
    assert len(splits.fit) + len(splits.validate) + len(splits.certify) == 20


def test_static_inputs_stay_whole() -> None:
    table = np.arange(7.0)
    splits = split(
        {**numbered(12), "table": table, "t": np.float32(3)}, SPEC, frozenset({"table", "t"})
    )
    for part in (splits.fit, splits.validate, splits.certify):
        assert np.array_equal(part.inputs["table"], table)
        assert part.inputs["t"] == 3


@pytest.mark.parametrize(
    ("inputs", "static", "message"),
    [
        ({"a": np.zeros((5, 2)), "b": np.zeros(6)}, (), r"different batch sizes .*'a': 5.*'b': 6"),
        ({"a": np.zeros(5), "t": np.float64(0)}, (), "'t' has no batch axis"),
        ({"a": np.array([[0.0], [1.0], [np.nan], [2.0]])}, (), "'a' holds NaN in row 2"),
        ({"a": np.zeros(4), "w": np.array([1, np.nan])}, ("w",), "'w' holds NaN;"),
        ({"a": np.zeros(2)}, (), "3 inputs are needed"),
        ({"a": np.zeros((0, 2))}, (), "one or more rows"),
        ({"a": np.zeros(4)}, ("a",), "one or more rows"),
    ],
)
def test_refusals(inputs: dict[str, np.ndarray], static: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        split(inputs, SPEC, frozenset(static))


def test_no_split_stands_in_for_another() -> None:
    model = model_of(network(0))
    splits = split(points(40), SPEC)
    reference = solve(model, model.sites, splits.inputs, 1e-2)
    plan = model.plans[-1]
    with pytest.raises(TypeError, match="reads Certify, got Validate"):
        certify(model, plan, splits.validate, reference, 1e-2, 0.9, 0.9)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="reads Fit and Validate, got Fit, Certify"):
        rank(model, plan, "m", splits.fit, splits.certify, reference, 0.9)  # type: ignore[arg-type]
