"""Metrics: what the error of an input is, what is promised of it, and bad ones refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy_models import NumpyModel, model_of, network, points, site
from torch import nn
from torchdiffeq import odeint

import odedeploy
from odedeploy import metrics
from odedeploy.errors import BadInput, FellShort, UnknownName
from odedeploy.frontends.loading import Loaded
from odedeploy.graph import Outcome
from odedeploy.metrics.agreement import SOFTENING, margin_used, margins
from odedeploy.reference import SHARE, solve
from odedeploy.search import highest_rate, minimum_samples, search, split
from odedeploy.spec import METRICS, ExportSpec

SCORES = arrays(np.float64, (5, 4), elements=st.floats(-8, 8, width=32))


def errors(spec: ExportSpec, found: Outcome, truth: Outcome) -> np.ndarray:
    metric = metrics.of(spec)
    return metric.errors(found, truth, metric.floors(truth))


def outcome(**outputs: np.ndarray) -> Outcome:
    return Outcome(outputs, {})


# -- agreement ------------------------------------------------------------------------------------


@given(SCORES, SCORES)
def test_error_of_one_is_a_change_of_class(out: np.ndarray, ref: np.ndarray) -> None:
    used = margin_used(out, ref)
    norm = np.linalg.norm(ref, axis=1)
    chosen = ref[np.arange(5), out.argmax(axis=1)]
    changed = ref.max(axis=1) - chosen > 1e-5 * norm
    alone = (np.sort(out, axis=1)[:, -1] > np.sort(out, axis=1)[:, -2]) | changed
    assert ((used >= 1) == changed)[alone].all()
    assert (used >= 0).all()


@given(SCORES, st.floats(0, 1))
def test_error_grows_with_the_way_to_another_class(ref: np.ndarray, way: float) -> None:
    """Half of the way from the reference to the opposite scores uses half of the margin."""
    two = ref[:, :2]
    margin = np.abs(two[:, 0] - two[:, 1])
    clear = margin > 1e-2 * np.linalg.norm(two, axis=1)
    moved = two + way * (two[:, ::-1] - two) / 2
    np.testing.assert_allclose(margin_used(moved, two)[clear], way, rtol=1e-6, atol=1e-9)


def test_shift_of_all_scores_is_no_error() -> None:
    ref = np.random.default_rng(0).normal(size=(20, 5))
    np.testing.assert_allclose(margin_used(ref + 3, ref), 0, atol=1e-12)


def test_tied_classes_stand_in_for_each_other_and_near_ties_do_not() -> None:
    ref = np.array([[1.0, 1.0, 0.0], [1.0, 1.0 - 1e-7, 0.0], [1.0, 1.0 - 1e-4, 0.0]])
    out = np.array([[0.9, 1.1, 0.0], [0.9, 1.1, 0.0], [0.99990, 1.0, 0.0]])
    used = margin_used(out, ref)
    assert used[0] < 1 and used[1] < 1 and used[2] >= 1
    assert margin_used(np.array([[0.5, 0.5, 0.5]]), ref[:1])[0] >= 1


def test_scores_that_are_not_finite_have_lost_their_class() -> None:
    ref = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    out = np.array([[np.nan, 0.0], [np.inf, 0.0], [0.0, 0.0]])
    assert np.isinf(margin_used(out, ref)).tolist() == [True, True, False]


def test_worst_over_outputs_and_positions() -> None:
    spec = ExportSpec(tol=1e-3, metric="agreement")
    map_ = np.zeros((3, 2, 4, 4))
    map_[:, 0] = 1.0
    moved = map_.copy()
    moved[1, 1, 2, 3] = 2.0
    label, score = np.array([1, 2, 3]), np.ones((3, 1))
    truth = outcome(map=map_, label=label, score=score)
    same = errors(spec, outcome(map=map_, label=label, score=score + 9), truth)
    assert same.tolist() == [0, 0, 0]
    found = errors(spec, outcome(map=moved, label=np.array([1, 2, 4]), score=score), truth)
    assert (found >= 1).tolist() == [False, True, True]


def test_agreement_needs_classes() -> None:
    spec = ExportSpec(tol=1e-3, metric="agreement")
    with pytest.raises(BadInput, match=r"classes.*module:function"):
        errors(spec, outcome(y=np.ones((4, 1))), outcome(y=np.ones((4, 1))))


def classifier() -> NumpyModel:
    """Three classes of a flow; scores are linear in the final state."""
    head = np.random.default_rng(7).normal(size=(4, 3))
    return NumpyModel([network(0, 3.0)], (site("solve0"),), lambda y: y @ head.astype(y.dtype))


def clusters(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of which few lie near a border between classes."""
    rng = np.random.default_rng(seed)
    centres = 3 * np.random.default_rng(1).normal(size=(5, 4))
    noise = 0.3 * rng.normal(size=(n, 4))
    return {"x": (centres[rng.integers(5, size=n)] + noise).astype(np.float32)}


def test_agreement_takes_fewer_evaluations_and_holds_on_fresh_inputs() -> None:
    model, inputs = classifier(), clusters(1000)
    found = {}
    for spec in (ExportSpec(tol=1e-2), ExportSpec(tol=1e-2, metric="agreement")):
        splits = split(inputs, spec)
        reference = solve(model, model.sites, splits.inputs, metrics.of(spec))
        found[spec.metric] = search(model, model.sites, spec, splits, reference)
    agreed = found["agreement"]
    assert agreed.certified and agreed.plan.evaluations < found["output"].plan.evaluations
    assert "at most 1 % of inputs like the calibration inputs change their class" in agreed.promise
    certificate = agreed.certificate
    assert certificate is not None
    assert certificate.rate == highest_rate(certificate.violations, certificate.samples, 0.95)
    assert certificate.rate <= 1e-2 and certificate.coverage == 1 - 1e-2
    fresh = clusters(2000, seed=5)
    truth = solve(model, model.sites, fresh, 1e-3).outcome.outputs["y"].argmax(axis=1)
    answers = model.run(agreed.plan, fresh, "float32").outputs["y"].argmax(axis=1)
    assert np.mean(answers != truth) <= 1e-2


@given(SCORES, SCORES)
def test_fits_see_no_less_than_the_share_of_a_softened_margin(
    out: np.ndarray, ref: np.ndarray
) -> None:
    """Every change of class of a clear decision shows in what a fit minimises."""
    found = margins(ref)
    assert found is not None
    moved = (out - ref) - np.take_along_axis(out - ref, found.best, axis=1)
    shares = moved / found.widths
    changed = margin_used(out, ref) >= 1
    norm = np.linalg.norm(ref, axis=1, keepdims=True)
    least = np.min(1 - SOFTENING * norm / found.widths, axis=1)
    clear = (np.isfinite(found.widths).sum(axis=1) == 3) & (norm[:, 0] > 1e-3)
    assert (shares.max(axis=1) >= least - 1e-9)[changed & clear].all()
    assert (shares[np.isinf(found.widths)] == 0).all()


@pytest.mark.parametrize("array", [np.arange(6).reshape(3, 2), np.ones((3, 1)), np.ones(3)])
def test_only_scores_have_margins(array: np.ndarray) -> None:
    assert margins(array) is None
    assert all(
        metrics.of(ExportSpec(tol=1e-2, metric=name)).margins(np.ones((3, 2))) is None
        for name in METRICS
        if name != "agreement"
    )


def test_reference_of_agreement_settles_every_class() -> None:
    model, inputs = classifier(), points(200)
    spec = ExportSpec(tol=1e-2, metric="agreement")
    reference = solve(model, model.sites, inputs, metrics.of(spec))
    assert reference.self_check <= SHARE
    tight = solve(model, model.sites, inputs, 1e-6).outcome.outputs["y"]
    assert margin_used(reference.outcome.outputs["y"], tight).max() < 1


def test_too_few_inputs_promise_another_share() -> None:
    model, inputs = classifier(), clusters(700)
    spec = ExportSpec(tol=1e-3, metric="agreement")
    splits = split(inputs, spec)
    assert len(splits.certify) == 700 - 256
    reference = solve(model, model.sites, splits.inputs, metrics.of(spec))
    result = search(model, model.sites, spec, splits, reference)
    assert result.certified and minimum_samples(0.999, 0.95) == 2995
    assert "Only 444 certification inputs, where 2995 are needed to promise 0.1 %" in result.promise
    assert "at most 0.673 % of inputs" in result.promise
    assert result.certificate is not None and result.certificate.violations == 0


# -- state ----------------------------------------------------------------------------------------


def test_state_is_judged_where_outputs_hide_it() -> None:
    """An output of one sign leaves the state free; the metric on states does not."""
    model = NumpyModel([network(0)], (site("solve0"),), lambda y: np.sign(y[:, :1]) + 0 * y)
    spec = ExportSpec(tol=1e-3, metric="state")
    splits = split(points(700), spec)
    reference = solve(model, model.sites, splits.inputs, metrics.of(spec))
    result = search(model, model.sites, spec, splits, reference)
    assert result.certified and "have final states with an error of at most" in result.promise
    fresh = points(500, seed=3)
    truth = solve(model, model.sites, fresh, metrics.of(spec))
    found = model.run(result.plan, fresh, "float32")
    assert np.quantile(truth.errors(found, np.arange(500)), 0.99) <= 1.5e-3


def test_state_needs_a_state() -> None:
    with pytest.raises(BadInput, match="--metric state needs a solve"):
        errors(ExportSpec(tol=1, metric="state"), outcome(y=np.ones(3)), outcome(y=np.ones(3)))


# -- tolerances of single outputs -----------------------------------------------------------------


def test_output_with_a_tolerance_of_its_own() -> None:
    truth = outcome(a=np.ones((3, 1)), b=np.ones((3, 1)))
    found = outcome(a=np.full((3, 1), 1.005), b=np.full((3, 1), 1.002))
    assert errors(ExportSpec(tol=1e-2), found, truth) == pytest.approx(5e-3)
    own = ExportSpec(tol=1e-2, tols={"b": 1e-3})
    assert errors(own, found, truth) == pytest.approx(2e-2)
    with pytest.raises(UnknownName, match="no output 'c'"):
        errors(replace(own, tols={"c": 1e-3}), found, truth)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"metric": "agrement"}, "did you mean 'agreement'"),
        ({"metric": "agreement", "tol": 1.0}, "below 1"),
        ({"metric": "agreement", "coverage": 0.9}, "does not apply"),
        ({"metric": "agreement", "tols": {"y": 0.1}}, "give --tol once"),
        ({"tols": {"y": -1.0}}, "positive"),
    ],
)
def test_requests_that_make_no_sense(asked: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        ExportSpec(**{"tol": 1e-2, **asked})  # type: ignore[arg-type]


# -- a person's own -------------------------------------------------------------------------------


OWN = """
import numpy as np

def largest(out, ref):
    return np.abs(out - ref).max(axis=1)

def first(out, ref):
    return np.abs(out["a"] - ref["a"]).max(axis=1)

def mean(out, ref):
    return float(np.abs(out - ref).mean())

def signed(out, ref):
    return (out - ref)[:, 0] - 1

def words(out, ref):
    return ["far"] * len(out)

def raises(out, ref):
    raise KeyError("no such output")

number = 3
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return str(path)


def test_own_function_is_called_with_arrays_or_dicts(own: str) -> None:
    x, y = np.ones((4, 2)), np.full((4, 2), 1.25)
    y[3] = np.nan
    spec = ExportSpec(tol=1e-2, metric=f"{own}:largest")
    assert errors(spec, outcome(y=y), outcome(y=x)).tolist() == [0.25, 0.25, 0.25, np.inf]
    spec = ExportSpec(tol=1e-2, metric=f"{own}:first")
    assert errors(spec, outcome(a=y, b=x), outcome(a=x, b=x))[0] == 0.25
    assert metrics.of(spec).name == "own.py:first"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "has no 'nothing'"),
        ("number", "is a int, not a function"),
        ("mean", r"shape \(\) for 3 inputs"),
        ("signed", "errors, 0 or more"),
        ("words", "returned <U3 of shape"),
        ("raises", "raised KeyError"),
    ],
)
def test_own_functions_that_are_refused(own: str, name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        y = outcome(y=np.ones((3, 2)))
        errors(ExportSpec(tol=1e-2, metric=f"{own}:{name}"), y, y)


def test_blind_function_does_not_settle_the_reference(own: str) -> None:
    """Judged by the function alone, the coarsest two resolutions would do."""
    Path(own).write_text("def blind(out, ref):\n    return 0 * out[:, 0]\n")
    model = model_of(network(0))
    metric = metrics.of(ExportSpec(tol=1e-2, metric=f"{own}:blind"))
    reference = solve(model, model.sites, points(50), metric)
    tight = solve(model, model.sites, points(50), 1e-6)
    apart = tight.errors(reference.outcome, np.arange(50))
    assert apart.max() <= 1e-3


# -- through the artefact -------------------------------------------------------------------------


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 24), nn.Tanh(), nn.Linear(24, 3))

    def forward(self, x):
        y = odeint(lambda t, y: 2 * self.net(y), x, torch.tensor([0.0, 1.0]))[-1]
        return {"logits": y, "size": y.norm(dim=1, keepdim=True)}


@pytest.fixture(scope="module")
def captured():
    torch.manual_seed(0)
    model = Classifier().eval()
    inputs = {"x": torch.randn(200, 3).numpy()}
    return Loaded("classifier", model, inputs), odedeploy.capture(model, inputs)


def exported(captured, spec: ExportSpec, path: Path):
    loaded, graph = captured
    return odedeploy.export(graph, odedeploy.plan(graph, loaded.inputs, spec=spec), path)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_certified_in_the_file_and_verified_again(captured, metric, tmp_path):
    path = tmp_path / "m.onnx"
    manifest = exported(captured, ExportSpec(tol=0.05, metric=metric, solver="rk4"), path)
    assert manifest.kept and manifest.metric == metric
    assert manifest.error.bound is not None and manifest.error.bound <= 0.05
    report = odedeploy.verify(path, captured[0])
    assert report.passed and report.error <= 0.05
    assert odedeploy.load(path).manifest.error == manifest.error
    assert ("PyTorch" in manifest.extra.get("verified", "")) == (metric == "state")
    if metric == "agreement":
        fresh = torch.randn(2000, 3, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            truth = captured[0].module(fresh)["logits"].argmax(1).numpy()
        answers = odedeploy.load(path)(fresh.numpy())["logits"].argmax(1)
        assert np.mean(answers != truth) <= 0.05


def test_own_tolerance_and_own_metric_in_the_file(captured, own, tmp_path):
    plain, strict = (
        odedeploy.plan(captured[1], captured[0].inputs,
                       spec=ExportSpec(tol=0.05, solver="rk4", tols=tols))
        for tols in ({}, {"size": 1e-4})
    )  # fmt: skip
    assert strict.search.plan.evaluations > plain.search.plan.evaluations
    manifest = odedeploy.export(captured[1], strict, tmp_path / "m.onnx")
    assert manifest.tols == {"size": 1e-4} and "0.05 (size 0.0001)" in manifest.promise
    Path(own).write_text("def size(out, ref):\n    return abs(out['size'] - ref['size'])[:, 0]\n")
    path = tmp_path / "own.onnx"
    manifest = exported(captured, ExportSpec(tol=0.01, metric=f"{own}:size", solver="rk4"), path)
    assert manifest.metric == "own.py:size" and str(tmp_path).encode() not in path.read_bytes()
    assert odedeploy.verify(path, captured[0], metric=f"{own}:size").passed
    with pytest.raises(BadInput, match="own.py does not exist"):
        odedeploy.verify(path, captured[0])


def test_agreement_that_falls_short_counts_the_classes(captured, tmp_path):
    spec = ExportSpec(tol=1e-2, metric="agreement", solver="euler", nfe=1)
    counted = r"makes \d+ of \d+ certification inputs change their class"
    with pytest.raises(FellShort, match=counted):
        exported(captured, spec, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
