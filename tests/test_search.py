"""The search: cheapest certified plan, honest when there is none, within its budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy_models import NumpyModel, model_of, network, points, rotation, site, spiral

from odedeploy.errors import BadInput, UnknownName
from odedeploy.reference import SHARE, Reference, solve, take
from odedeploy.search import Certify, Search, Splits, search, split
from odedeploy.search.ladder import Ladder
from odedeploy.search.layout import BUDGET, Layout
from odedeploy.search.measure import rank
from odedeploy.search.sequence import SEQUENCE
from odedeploy.search.study import OutOfTime, Rung, Study
from odedeploy.solvers import LADDER, find
from odedeploy.spec import ExportSpec

MODELS = {
    "tanh": lambda: (model_of(network(3, 5.0)), points(400)),
    "relu": lambda: (model_of(network(1, 3.0, relu=True)), points(400)),
    "spiral": lambda: (model_of(spiral()), points(400, width=2)),
    "two solves": lambda: (model_of(network(2, 4.0), network(3, 0.3)), points(400)),
}


def prepared(
    model: NumpyModel, inputs: dict[str, np.ndarray], spec: ExportSpec
) -> tuple[Splits, Reference]:
    splits = split(inputs, spec)
    return splits, solve(model, model.sites, splits.inputs, spec.tol)


def searched(model: NumpyModel, inputs: dict[str, np.ndarray], spec: ExportSpec) -> Search:
    return search(model, model.sites, spec, *prepared(model, inputs, spec))


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("name", MODELS)
def test_as_cheap_as_exhaustive_search(name: str, tol: float) -> None:
    """Of all methods at all evaluations, none much cheaper keeps the target on fit and validate.

    Within one step of the ladder, a sixteenth of the next doubling of the evaluations.
    """
    model, inputs = MODELS[name]()
    spec = ExportSpec(tol=tol, coverage=0.95)
    splits, reference = prepared(model, inputs, spec)
    result = search(model, model.sites, spec, splits, reference)
    target = (1 - SHARE) * tol
    found = min(c.evaluations for c in result.candidates if c.error <= target)
    layout = Layout.even(model.sites)
    for evaluations in range(layout.least, found - max(1, found // 8)):
        for solver in LADDER:
            plan = layout.plan(find(solver), evaluations)
            if plan is not None and plan.evaluations == evaluations:
                candidate = rank(model, plan, solver, splits.fit, splits.validate, reference, 0.95)
                assert candidate.error > target, (solver, evaluations, found)
    assert result.certified
    assert result.certificate is not None
    assert result.certificate.bound <= target


@pytest.mark.parametrize("name", MODELS)
def test_the_sequence_runs_from_the_safest_to_the_cheapest(name: str) -> None:
    model, inputs = MODELS[name]()
    result = searched(model, inputs, ExportSpec(tol=1e-2, coverage=0.95))
    tested = [entry.candidate for entry in result.sequence]
    costs = [candidate.evaluations for candidate in tested]
    assert costs == sorted(set(costs), reverse=True)
    assert [c.error for c in tested] == sorted(c.error for c in tested)
    assert tested[0].worst <= 0.5 * 1e-2
    assert 1 <= len(tested) <= SEQUENCE
    passed = [entry.certificate.passed for entry in result.sequence]
    assert all(passed[:-1])
    last = tested[-1] if passed[-1] else tested[-2]
    assert result.best is last
    assert result.plan is last.plan
    assert {id(c) for c in tested} <= {id(c) for c in result.candidates}


def test_the_promise_holds_on_fresh_inputs() -> None:
    """Eight searches over a family of models, each tried on 1,000 inputs it has not seen."""
    broken = 0
    for seed in range(8):
        model = model_of(network(seed, 2.0 + seed % 3, relu=seed % 3 == 0))
        spec = ExportSpec(tol=1e-2, coverage=0.95, seed=seed)
        result = searched(model, points(300, seed), spec)
        assert result.certified
        fresh = points(1000, 1000 + seed)
        reference = solve(model, model.sites, fresh, spec.tol)
        found = model.run(result.plan, fresh, "float32")
        kept = float(np.mean(reference.errors(found, np.arange(1000)) <= spec.tol))
        broken += kept < 0.95 - 2 * np.sqrt(0.05 * 0.95 / 1000)
    assert broken <= 1


def test_the_same_seed_finds_the_same() -> None:
    first, second = (searched(*MODELS["relu"](), ExportSpec(tol=1e-2, coverage=0.95)) for _ in "ab")
    assert first == second


@pytest.mark.parametrize("stop", [OutOfTime, KeyboardInterrupt])
def test_without_time_for_safer_plans_those_there_are_are_tested(
    monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    climbed = []

    def spent(ladder: Ladder) -> list[Rung]:
        climbed.append(ladder)
        raise stop

    monkeypatch.setattr(Ladder, "higher", spent)
    monkeypatch.setattr(Study, "safe", 1e-9)
    found = searched(*MODELS["relu"](), ExportSpec(tol=1e-2, coverage=0.95))
    assert len(climbed) == 1
    assert found.certified


def test_kept_solves_stay_as_they_are() -> None:
    sites = (site("a"), site("block", kept=("euler", 3)), site("c", (1.0, 0.0)))
    model = model_of(network(0, 3.0), network(1), network(2), sites=sites)
    result = searched(model, points(300), ExportSpec(tol=1e-2, coverage=0.95))
    assert result.certified
    assert all(candidate.plan["block"] == sites[1].kept for candidate in result.candidates)
    assert [solve.site for solve in result.plan.solves] == ["a", "block", "c"]
    assert result.plan["a"].solver == result.plan["c"].solver == result.best.solver


def test_a_model_of_kept_solves_is_certified_as_it_is() -> None:
    sites = (site("block", kept=("euler", 4)),)
    model = model_of(network(0), sites=sites)
    result = searched(model, points(300), ExportSpec(tol=1e-4, coverage=0.95))
    assert result.certified
    assert result.plan["block"] == sites[0].kept
    assert (result.best.solver, result.best.evaluations) == ("euler", 4)
    assert result.best.worst <= 1e-5


def test_evaluations_go_where_they_are_needed() -> None:
    model = model_of(network(2, 6.0), network(3, 0.1))
    result = searched(model, points(300), ExportSpec(tol=1e-3, coverage=0.95))
    hard, easy = (solve.program.evaluations for solve in result.plan.solves)
    assert hard >= 3 * easy
    even = Layout.even(model.sites)
    assert result.certified
    splits, reference = prepared(model, points(300), ExportSpec(tol=1e-3, coverage=0.95))
    plan = even.plan(find(result.best.solver), result.best.evaluations)
    assert plan is not None
    halves = rank(model, plan, "", splits.fit, splits.validate, reference, 0.95)
    assert halves.error > 2 * result.best.error


@pytest.mark.parametrize("solver", LADDER)
def test_a_solver_that_was_asked_for(solver: str) -> None:
    model, inputs = MODELS["tanh"]()
    result = searched(model, inputs, ExportSpec(tol=3e-2, coverage=0.95, solver=solver))
    assert {candidate.solver for candidate in result.candidates} == {solver}
    assert result.certified == (solver != "euler" or result.best.error <= 3e-2)


@pytest.mark.parametrize(("solver", "nfe"), [("auto", 7), ("rk4", 12), ("ab2_midpoint", 9)])
def test_a_number_of_evaluations_that_was_asked_for(solver: str, nfe: int) -> None:
    model, inputs = MODELS["tanh"]()
    spec = ExportSpec(tol=0.5, coverage=0.95, solver=solver, nfe=nfe)
    result = searched(model, inputs, spec)
    assert {candidate.evaluations for candidate in result.candidates} == {nfe}
    assert len(result.sequence) == 1
    assert result.plan.evaluations == nfe
    assert solver in ("auto", result.best.solver)


KEPT = (site("block", kept=("euler", 4)),)
MANY_TIMES = (site("s", tuple(np.linspace(0, 1, 9))),)


@pytest.mark.parametrize(
    ("sites", "asked", "error", "message"),
    [
        (None, {"solver": "rk4", "nfe": 10}, BadInput, "exactly 10 .* nearest possible is 8 or 12"),
        (None, {"solver": "dopri5", "nfe": 1}, BadInput, "nearest possible is 6"),
        (MANY_TIMES, {"nfe": 5}, BadInput, "nearest possible is 8"),
        (None, {"solver": "rk5"}, UnknownName, "no solver 'rk5'.*did you mean"),
        (KEPT, {"solver": "rk4"}, BadInput, "kept exactly.*--solver rk4.*--replan"),
        (KEPT, {"nfe": 8}, BadInput, "kept exactly.*--nfe 8"),
    ],
)
def test_refusals(
    sites: Sequence | None, asked: dict[str, object], error: type[BadInput], message: str
) -> None:
    model = model_of(network(0), sites=tuple(sites) if sites else None)
    spec = replace(ExportSpec(tol=1e-1), **asked)
    splits, reference = prepared(model, points(20), spec)
    with pytest.raises(error, match=message):
        search(model, model.sites, spec, splits, reference)


def test_more_output_times_than_the_budget_are_refused() -> None:
    with pytest.raises(BadInput, match=f"{BUDGET + 2} output times, more than the {BUDGET}"):
        Layout.even([site("s", tuple(np.linspace(0, 1, BUDGET + 2)))])


def test_output_times_are_steps_of_every_plan() -> None:
    model = model_of(network(0, 4.0), sites=MANY_TIMES)
    result = searched(model, points(300), ExportSpec(tol=1e-3, coverage=0.95))
    assert result.certified
    grid = result.plan["s"].grid
    assert [grid.times[i] for i in grid.outputs] == pytest.approx(MANY_TIMES[0].times)


def test_out_of_reach_reports_the_best_and_promises_nothing() -> None:
    """Float32 rounds at about 1e-7, whatever the evaluations."""
    model = model_of(network(0))
    result = searched(model, points(60), ExportSpec(tol=1e-8))
    assert not result.certified
    assert result.sequence == ()
    assert result.certificate is None
    assert result.best.error == min(candidate.error for candidate in result.candidates)
    assert result.best.error < 1e-5
    assert all(
        solve.program.evaluations <= BUDGET for plan in model.plans[-50:] for solve in plan.solves
    )
    assert result.promise.startswith("Nothing is promised")


def test_the_walk_is_over_when_the_safest_fails() -> None:
    """Inputs to be certified that are unlike those that ranked the plans."""
    model = NumpyModel([rotation], (site("solve0"),), head=lambda y: y[:, :2])
    spec = ExportSpec(tol=1e-2, coverage=0.95)
    splits = split({"x": np.ones((300, 3), dtype=np.float32)}, spec)
    rows = splits.certify.rows
    faster = {"x": splits.inputs["x"].copy()}
    faster["x"][rows, 2] = 20
    splits = replace(splits, inputs=faster, certify=Certify(rows, take(faster, rows)))
    reference = solve(model, model.sites, faster, spec.tol)
    result = search(model, model.sites, spec, splits, reference)
    assert not result.certified
    assert len(result.sequence) == 1
    assert result.best is result.sequence[0].candidate
    assert result.promise.startswith("Nothing is promised")


def test_too_few_inputs_certify_less_and_say_so() -> None:
    result = searched(model_of(network(0)), points(60), ExportSpec(tol=1e-2))
    assert result.certified
    assert result.certificate is not None
    assert result.certificate.samples == 30
    assert result.certificate.bound == result.certificate.max <= 1e-2
    assert result.certificate.coverage == pytest.approx(0.05 ** (1 / 30))
    assert "Only 30 certification inputs, where 299 are needed" in result.promise
    assert "90.49 %" in result.promise


def test_enough_inputs_promise_what_was_asked() -> None:
    result = searched(model_of(network(0)), points(700), ExportSpec(tol=1e-2))
    assert result.certificate is not None
    assert result.certificate.coverage == 0.99
    assert result.promise.startswith("With 95 % confidence at least 99 % of inputs")


@pytest.mark.parametrize("name", MODELS)
def test_work_stays_within_half_a_minute_of_images(name: str) -> None:
    """With 0.03 ms an evaluation and 0.2 ms a run, per input: 512 to rank, 512 to certify."""
    model, _ = MODELS[name]()
    inputs = points(1024, width=2 if name == "spiral" else 4)
    spec = ExportSpec(tol=1e-2)
    splits, reference = prepared(model, inputs, spec)
    model.spent = model.rows = 0
    assert search(model, model.sites, spec, splits, reference).certified
    assert 0.03e-3 * model.spent + 0.2e-3 * model.rows < 25


def test_progress_is_reported_by_stage() -> None:
    model, inputs = MODELS["relu"]()
    spec = ExportSpec(tol=1e-2, coverage=0.95)
    seen: list[tuple[str, int, int]] = []
    search(model, model.sites, spec, *prepared(model, inputs, spec), lambda *r: seen.append(r))
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == ["screen", "rank", "certify"]
    assert all(0 < done <= total for _, done, total in seen)
    last = {stage: (done, total) for stage, done, total in seen}
    assert all(done == total for done, total in last.values())
