"""Grids and learned solvers: exact where they promise it, never worse, and exported as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchless
from hypothesis import given
from hypothesis import strategies as st
from numpy_models import model_of, network, points
from torch import Tensor, nn
from torchdiffeq import odeint

import odedeploy
from odedeploy import metrics
from odedeploy.errors import BadInput
from odedeploy.frontends import live
from odedeploy.grid import Grid
from odedeploy.metrics.agreement import margin_used
from odedeploy.program import (
    Dense,
    Plan,
    Program,
    build,
    contract,
    expand,
    interpret,
    solve_plan,
    written_out,
)
from odedeploy.reference import solve
from odedeploy.search import (
    Candidate,
    Splits,
    gauss_newton,
    grids,
    improvement,
    judge,
    planning,
    search,
    split,
)
from odedeploy.search.grids import Steps
from odedeploy.search.improvement import Improvement
from odedeploy.search.learned import AMPLIFICATION, Families, Family, inserted
from odedeploy.search.leastsquares import least_squares
from odedeploy.search.measure import errors_of
from odedeploy.search.objective import _target, descend, judges
from odedeploy.search.sequence import order
from odedeploy.solvers import SOLVERS
from odedeploy.spec import ExportSpec

GRIDS = {
    "uniform": Grid.uniform(0.0, 1.0, 3),
    "non-uniform": Grid((0.0, 0.1, 0.5, 1.0), (0, 3)),
    "reversed": Grid((2.0, 1.7, 0.5), (0, 2)),
    "outputs": Grid((0.0, 0.2, 0.3, 0.9, 1.0), (0, 2, 4)),
}


class Decay(nn.Module):
    """A layer that the solution leaves quickly, then hardly moves: uniform steps are wasted."""

    times = (0.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.mix = nn.Linear(3, 3)

    def field(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.mix(y)) * (0.3 + 8 * torch.exp(-12 * t))

    def forward(self, y: Tensor) -> Tensor:
        return odeint(self.field, y, torch.tensor(self.times))[-1]


class Reversed(Decay):
    times = (1.0, 0.0)


class Trajectory(Decay):
    times = (0.0, 0.25, 1.0)

    def forward(self, y: Tensor) -> Tensor:
        return odeint(self.field, y, torch.tensor(self.times))[1:].transpose(0, 1)


class Pair(Decay):
    """A tuple of states, as of a flow and its log-density."""

    def forward(self, y: Tensor) -> Tensor:
        def field(t: Tensor, states: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return self.field(t, states[0]), -states[0].square().sum(1, keepdim=True)

        ends = odeint(field, (y, y[:, :1] * 0), torch.tensor(self.times))
        return torch.cat([ends[0][-1], ends[1][-1]], 1)


class Twice(Decay):
    """Two solves, the second starting from where the first ends."""

    def forward(self, y: Tensor) -> Tensor:
        middle = odeint(self.field, y, torch.tensor([0.0, 0.5]))[-1]
        return odeint(self.field, torch.tanh(middle), torch.tensor([0.5, 1.5]))[-1]


class Kept(Decay):
    """A fixed-step call, which is the model, before an adaptive one."""

    def forward(self, y: Tensor) -> Tensor:
        middle = odeint(self.field, y, torch.tensor([0.0, 1.0]), method="euler",
                        options={"step_size": 0.5})[-1]  # fmt: skip
        return odeint(self.field, middle, torch.tensor([0.0, 1.0]))[-1]


MODELS = {m.__name__: m for m in (Decay, Reversed, Trajectory, Pair, Twice, Kept)}
SPEC = ExportSpec(tol=1e-2, coverage=0.95)


def inputs_of(n: int = 240, seed: int = 0) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    return {"y": torch.randn(n, 3, generator=generator).numpy()}


@pytest.fixture(scope="module", params=MODELS)
def graph(request: pytest.FixtureRequest) -> odedeploy.OdeGraph:
    return odedeploy.capture(MODELS[request.param](), inputs_of())


@pytest.fixture(scope="module")
def decay() -> odedeploy.OdeGraph:
    return odedeploy.capture(Decay(), inputs_of())


def field(t: np.floating, y: np.ndarray) -> np.ndarray:
    return np.cos(3 * y + t) - y[::-1]


# A program and its dense form are one method.


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_program_is_a_dense_method_and_back(solver: str, grid: str) -> None:
    program = build(SOLVERS[solver], GRIDS[grid])
    dense = expand(program)
    again = contract(dense)
    rows = [row[:i] for i, row in enumerate(dense.rows)]
    full = written_out(dense.times, rows, [(), *dense.weights[1:]])
    assert again.evaluations == full.evaluations == program.evaluations
    assert again.times == program.times
    y0 = np.array([0.3, -1.2, 0.7])
    expected = interpret(program, field, y0)
    for same in (again, full):
        np.testing.assert_allclose(interpret(same, field, y0), expected, rtol=1e-12, atol=1e-13)


def test_negligible_coefficients_leave_no_term() -> None:
    dense = Dense(np.array([0.0, 1.0]), np.array([[0, 0], [1.0, 0]]), np.array([[0, 0], [1e-9, 1]]))
    assert contract(dense, 1e-8).instructions[-1].terms == ((1, 1.0),)  # type: ignore[union-attr]


def test_a_running_state_is_used_where_it_saves_terms() -> None:
    program = build(SOLVERS["rk4"], Grid.uniform(0, 1, 6))

    def terms(p: Program) -> int:
        return sum(len(step.terms) for step in p.instructions if hasattr(step, "terms"))

    assert terms(contract(expand(program), 1e-15)) == terms(program)


@given(
    outputs=st.lists(st.floats(0.1, 2.0), min_size=1, max_size=4),
    steps=st.integers(1, 12),
    density=st.lists(st.floats(0.05, 5.0), min_size=8, max_size=8),
    direction=st.sampled_from([1.0, -1.0]),
)
def test_spread_steps_carry_equal_mass(
    outputs: list[float], steps: int, density: list[float], direction: float
) -> None:
    times = [0.0, *(direction * np.cumsum(outputs))]
    nodes = np.linspace(0, times[-1], 9)
    mass = np.concatenate([[0.0], np.cumsum(density)])
    grid = Grid.spread(times, steps, nodes, mass)
    assert grid.steps == max(steps, len(times) - 1)
    assert [grid.times[i] for i in grid.outputs] == pytest.approx(times)
    at = np.interp(direction * np.array(grid.times), direction * nodes, mass)
    for first, last in zip(grid.outputs, grid.outputs[1:], strict=False):
        np.testing.assert_allclose(np.diff(at[first : last + 1], 2), 0, atol=1e-9 * mass[-1])


# The family of learned solvers keeps its conditions whatever the numbers are.


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("solver", ["euler", "ab3_euler", "rk4", "dopri5"])
def test_order_conditions_hold_exactly(
    solver: str, name: str, decoupled: bool, order: int
) -> None:
    grid = GRIDS[name]
    times = tuple(grid.times[i] for i in grid.outputs)
    site = _site(times)
    family = Family(site, expand(build(SOLVERS[solver], grid)), order, decoupled)
    with torch.no_grad():
        for parameter in family.parameters:
            parameter += 0.1 * torch.randn(
                parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
            )
    dense = expand(family.frozen().program)
    nodes, lengths = dense.rows.sum(axis=1), np.array(times[1:]) - times[0]
    np.testing.assert_allclose(dense.weights[1:].sum(axis=1), lengths, rtol=1e-9)
    if not decoupled:
        np.testing.assert_allclose(dense.times - times[0], nodes, atol=1e-9)
    assert family.order == order or dense.stages < 3
    if family.order == 2:
        np.testing.assert_allclose(dense.weights[1:] @ nodes, lengths**2 / 2, rtol=1e-6)
        np.testing.assert_allclose(
            dense.weights[1:] @ (dense.times - times[0]), lengths**2 / 2, rtol=1e-6
        )


@pytest.mark.parametrize("solver", SOLVERS)
def test_classical_methods_are_points_of_the_family(solver: str) -> None:
    program = build(SOLVERS[solver], GRIDS["non-uniform"])
    family = Family(_site((0.0, 1.0)), expand(program), 1)
    found, dense = expand(family.frozen().program), expand(program)
    np.testing.assert_allclose(found.rows, dense.rows, atol=1e-9)
    np.testing.assert_allclose(found.weights, dense.weights, atol=1e-9)
    np.testing.assert_allclose(found.times, dense.times, atol=1e-9)


def test_an_inserted_evaluation_changes_nothing_yet(graph: odedeploy.OdeGraph) -> None:
    evaluator, inputs = live(graph), inputs_of(8)
    plan = _classical(graph, "ab3_midpoint", 4)
    grown = inserted(plan, graph.sites)
    assert grown.evaluations == plan.evaluations + 1
    before, after = (evaluator.run(p, inputs, "float64").outputs for p in (plan, grown))
    np.testing.assert_allclose(after["output"], before["output"], rtol=1e-12, atol=1e-13)


def test_noise_amplification_is_penalised_beyond_its_cap() -> None:
    dense = expand(build(SOLVERS["euler"], Grid.uniform(0, 1, 2)))
    wild = replace(dense, weights=np.array([[0.0, 0.0], [4.5, -3.5]]))
    for start, excess in ((dense, 0.0), (wild, 8.0 - AMPLIFICATION)):
        program = contract(start)
        plan = Plan((replace(solve_plan("s", SOLVERS["euler"], Grid.uniform(0, 1, 2)),
                             program=program),))  # fmt: skip
        families = Families((_site((0.0, 1.0)),), plan, 1)
        assert float(families.excess().square().sum().detach()) == pytest.approx(excess**2)


# Grids.


def test_densities_find_where_the_solution_moves(decay: odedeploy.OdeGraph) -> None:
    evaluator, inputs = live(decay), inputs_of(32)
    for found in (
        grids.equidistributed(evaluator, decay.sites, inputs, 2),
        grids.harvested(evaluator, decay.sites, inputs, 1e-4),
    ):
        density = found["solve0"]
        early = np.interp(0.3, density.nodes, density.mass)
        assert early > 0.5
        assert density.gain > grids.GAIN


def test_a_moved_grid_has_a_smaller_error(decay: odedeploy.OdeGraph) -> None:
    evaluator, inputs = live(decay), inputs_of(64)
    truth = _errors_against_fine(decay, inputs)
    plan = _classical(decay, "midpoint", 5)
    layout = _study(decay)[0].layout
    moved = grids.moved(plan, layout, grids.equidistributed(evaluator, decay.sites, inputs, 2))
    assert moved.evaluations == plan.evaluations
    assert truth(moved) < 0.6 * truth(plan)


def test_step_sizes_as_parameters(graph: odedeploy.OdeGraph) -> None:
    """They start where the plan is, and stay above the least step whatever the logits."""
    plan = _classical(graph, "ab2_midpoint", 5)
    for site, solved in zip(graph.sites, plan.solves, strict=True):
        if site.kept is not None:
            continue
        steps = Steps(solved)
        np.testing.assert_allclose(steps.frozen().grid.times, solved.grid.times, atol=1e-6)
        with torch.no_grad():
            for logits in steps.parameters:
                logits += 60 * torch.randn(logits.shape, dtype=torch.float64)
        grid = steps.frozen().grid
        assert [grid.times[i] for i in grid.outputs] == pytest.approx(site.times)
        assert min(abs(np.diff(grid.times))) > 0


# Least squares and the descent, on the live model.


def test_closed_form_is_no_worse_on_its_inputs(decay: odedeploy.OdeGraph) -> None:
    inputs = inputs_of(64)
    truth = _errors_against_fine(decay, inputs)
    start = _classical(decay, "ab2_euler", 6)
    found = least_squares(live(decay), decay.sites, start, inputs, grids.fine(decay.sites))
    assert found.evaluations == 6
    assert found.solves[0].solver == "learned"
    assert truth(found) < truth(start)


def test_learning_beats_every_classical_plan_of_the_same_cost(decay: odedeploy.OdeGraph) -> None:
    study, ladder = _study(decay)
    improved = Improvement(study, ladder, live(decay), _classical(decay, "ab2_euler", 5))
    with study.screening():
        improved.exactly(5)
        best = min(rung.error for rung in ladder.exactly(5))
    learned = [rung for rung in improved.rungs if rung.kind == "learned"]
    assert [rung.evaluations for rung in learned] == [5]
    assert learned[0].error < 0.3 * best
    fresh = inputs_of(200, seed=9)
    errors = _errors_against_fine(decay, fresh)
    classical = min((r.plan for r in ladder.exactly(5)), key=errors)
    assert errors(learned[0].plan) < 0.5 * errors(classical)


class Scores(nn.Module):
    """Three scores on top of a large value that moves all of them alike and decides nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.field = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, y: Tensor) -> Tensor:
        end = odeint(lambda t, y: 3 * self.field(y), y, torch.tensor([0.0, 1.0]))[-1]
        return end[:, :3] + 5 * end[:, 3:]


def test_a_fit_for_agreement_keeps_decisions_better_than_one_for_outputs() -> None:
    inputs = {"y": torch.randn(1000, 4, generator=torch.Generator().manual_seed(0)).numpy()}
    graph = odedeploy.capture(Scores(), inputs)
    fine = _classical(graph, "rk4", 64)
    changed = {}
    for metric in ("output", "agreement"):
        spec = ExportSpec(tol=1e-2, metric=metric)
        splits = split(inputs, spec)
        evaluator = live(graph)
        reference = solve(evaluator, graph.sites, splits.inputs, metrics.of(spec))
        start = _classical(graph, "euler", 2)
        families = Families(graph.sites, start, 1)
        with judges(evaluator, splits.fit, splits.validate, reference) as judged:
            before = judged.validate.tail(start)
            assert descend(families.parameters, families.plan, judged, 60) < before
        out, ref = (
            evaluator.run(p, splits.certify.inputs, "float64").outputs["output"]
            for p in (families.frozen(), fine)
        )
        changed[metric] = np.count_nonzero(margin_used(out, ref) >= 1)
    assert 0 < changed["agreement"] < 0.7 * changed["output"]


def test_gauss_newton_goes_on_where_gradients_settle(decay: odedeploy.OdeGraph) -> None:
    splits, reference = _prepared(decay)
    evaluator, start = live(decay), _classical(decay, "ab3_midpoint", 6)
    families = Families(decay.sites, start, 1)
    numbers = families.parameters, families.plan
    with judges(evaluator, splits.fit, splits.validate, reference) as judged:
        slow = descend(*numbers, judged, 40)
        fast = gauss_newton.fit(*numbers, judged, 4, excess=families.excess)
        assert judged.validate.tail(families.frozen()) == pytest.approx(fast, rel=1e-3)
    assert fast < 0.7 * slow


@pytest.mark.parametrize("power", [2.0, 4.0])
def test_gauss_newton_descends_the_loss_itself(decay: odedeploy.OdeGraph, power: float) -> None:
    """Its right-hand side is half the gradient of the loss, penalty included."""
    splits, reference = _prepared(decay)
    evaluator, start = live(decay), _classical(decay, "ab3_midpoint", 6)
    families = Families(decay.sites, start, 1)
    with torch.no_grad():
        families.parameters[0][0, :2] += torch.tensor([8.0, -8.0])  # beyond AMPLIFICATION
    numbers, parts = families.plan, (families.excess, lambda: None)
    with judges(evaluator, splits.fit, splits.validate, reference) as judged:
        with torch.no_grad():
            values = [p.detach() for p in families.parameters]
            matrix, slope = gauss_newton._normal(values, numbers, judged.fit, power, *parts)
        loss = judged.fit(families.plan(), power) + families.excess().square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
    assert float(families.excess().sum().detach()) > 1
    gradient = torch.cat([p.grad.flatten() for p in families.parameters if p.grad is not None])
    torch.testing.assert_close(2 * slope, gradient, rtol=1e-3, atol=1e-4 * float(gradient.norm()))
    assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-9 * float(matrix.diagonal().max())


class _Doubled(torch.autograd.Function):
    """2 x, without a forward derivative."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return 2 * x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return 2 * gradient


class Opaque(nn.Module):
    def forward(self, y: Tensor) -> Tensor:
        times = torch.tensor([0.0, 1.0])
        return odeint(lambda t, y: _Doubled.apply(torch.sin(y + t)), y, times)[-1]


def test_without_forward_derivatives_fits_go_by_gradients() -> None:
    inputs = {"y": torch.randn(400, 3, generator=torch.Generator().manual_seed(0)).numpy()}
    graph = odedeploy.capture(Opaque(), inputs)
    evaluator, spec = live(graph), replace(SPEC, solver="learned", nfe=4, tol=0.5)
    splits = split(inputs, spec)
    reference = solve(evaluator, graph.sites, splits.inputs, spec.tol)
    start = _classical(graph, "euler", 4)
    with judges(evaluator, splits.fit, splits.validate, reference) as judged:
        families = Families(graph.sites, start, 1)
        with pytest.raises(NotImplementedError):
            gauss_newton.fit(families.parameters, families.plan, judged, 1)
    found = search(evaluator, graph.sites, spec, splits, reference)
    assert found.best.kind == "learned"
    assert found.best.error < 0.1 * errors_of(
        evaluator, start, splits.validate, reference
    ).max()


# The whole search.


def test_never_dearer_than_the_classical_search(graph: odedeploy.OdeGraph) -> None:
    splits, reference = _prepared(graph)
    evaluator = live(graph)
    found = {
        solver: search(
            evaluator, graph.sites, replace(SPEC, solver=solver), splits, reference
        )
        for solver in ("classical", "auto")
    }
    assert found["auto"].certified
    assert found["auto"].best.evaluations < found["classical"].best.evaluations
    assert found["auto"].best.kind in ("grid", "learned")
    assert {c.kind for c in found["classical"].candidates} == {"classical"}
    for site in graph.sites:
        if site.kept is not None:
            assert all(c.plan[site.name] == site.kept for c in found["auto"].candidates)
    tested = [t.candidate.evaluations for t in found["auto"].sequence]
    assert tested == sorted(set(tested), reverse=True)


def test_exported_and_verified_in_its_runtime(graph: odedeploy.OdeGraph, tmp_path: Path) -> None:
    spec = replace(SPEC, tol=3e-2, solver="learned")
    planned = odedeploy.plan(graph, inputs_of(), spec=spec)
    assert planned.search.best.kind == "learned"
    manifest = odedeploy.export(graph, planned, tmp_path / "m.onnx")
    assert manifest.plan["kind"] == "learned"
    assert "learned" in manifest.plan["solver"]
    assert {c["kind"] for c in manifest.candidates} == {"learned"}
    assert Plan.from_json(manifest.plan["program"]) == planned.search.plan
    fresh = inputs_of(300, seed=5)
    evaluator = live(graph)
    truth = solve(evaluator, graph.sites, fresh, 1e-4).outcome.outputs["output"]
    out = odedeploy.load(tmp_path / "m.onnx")(fresh["y"])
    flat = (out - truth).reshape(300, -1), truth.reshape(300, -1)
    errors = np.linalg.norm(flat[0], axis=1) / np.linalg.norm(flat[1], axis=1)
    assert np.mean(errors <= 3e-2) >= 0.9


def test_learned_with_a_number_of_evaluations(decay: odedeploy.OdeGraph) -> None:
    splits, reference = _prepared(decay)
    spec = replace(SPEC, solver="learned", nfe=4, tol=0.5)
    found = search(live(decay), decay.sites, spec, splits, reference)
    assert (found.best.kind, found.best.evaluations) == ("learned", 4)


def test_without_gradients_the_search_is_classical() -> None:
    model, inputs = model_of(network(3, 5.0)), points(300)
    splits = split(inputs, SPEC)
    reference = solve(model, model.sites, splits.inputs, SPEC.tol)
    found = search(model, model.sites, SPEC, splits, reference)
    assert {c.kind for c in found.candidates} == {"classical"}
    with pytest.raises(BadInput, match="--solver learned fits .* choose classical"):
        search(model, model.sites, replace(SPEC, solver="learned"), splits, reference)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, improvement.OutOfTime])
@pytest.mark.parametrize("after", [1, 40])
def test_an_ended_search_certifies_what_it_has(
    decay: odedeploy.OdeGraph, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException],
    after: int,
) -> None:  # fmt: skip
    calls = 0
    descend = improvement.descend

    def ended(*args, **kwargs):  # type: ignore[no-untyped-def]
        def spent() -> None:
            nonlocal calls
            calls += 1
            if calls >= after:
                raise stop

        return descend(*args[:6], spent=spent)

    monkeypatch.setattr(improvement, "descend", ended)
    splits, reference = _prepared(decay)
    found = search(live(decay), decay.sites, SPEC, splits, reference)
    assert found.certified
    assert calls == after


def test_a_budget_that_is_spent_at_once_still_gives_a_plan(decay: odedeploy.OdeGraph) -> None:
    splits, reference = _prepared(decay)
    found = search(live(decay), decay.sites, replace(SPEC, budget=1e-9), splits, reference)
    assert {c.kind for c in found.candidates} == {"classical"}
    assert len(found.candidates) >= 1


def test_measured_cost_decides_among_fitted_plans(decay: odedeploy.OdeGraph) -> None:
    """Where evaluations cost nothing and terms everything, the plan with fewest terms is chosen."""
    splits, reference = _prepared(decay)

    def costs(plans: list[Plan]) -> list[float]:
        return [float(p.evaluations if p.solves[0].solver != "learned" else 1e6) for p in plans]

    found = search(live(decay), decay.sites, SPEC, splits, reference, costs=costs)  # type: ignore[arg-type]
    assert found.certified
    assert found.best.kind != "learned"
    assert found.best.cost == found.best.evaluations


def _candidate(kind: str, evaluations: int, error: float, worst: float) -> Candidate:
    return Candidate(Plan(()), kind, evaluations, error, error, worst, kind)


def test_the_safe_classical_plan_is_tested_before_the_fitted_ones() -> None:
    classical = _candidate("classical", 12, 0.5, 0.7)
    learned = [_candidate("learned", n, e, e) for n, e in ((6, 0.8), (8, 0.3))]
    unsafe = _candidate("classical", 10, 0.9, 1.2)
    tested = order([*learned, classical, unsafe], 1.0)
    assert [c.evaluations for c in tested] == [12, 8, 6]


@pytest.mark.parametrize(("kind", "passed"), [("learned", False), ("classical", True)])
def test_an_over_fitted_plan_is_refused(kind: str, passed: bool) -> None:
    certificate = judge(np.full(100, 0.9), 1.0, 0.95, 0.95)
    assert certificate.passed
    assert planning.Tested(_candidate(kind, 4, 0.1, 0.2), certificate).passed is passed
    assert planning.Tested(_candidate(kind, 4, 0.4, 0.5), certificate).passed


def test_the_search_needs_no_torch() -> None:
    done = torchless.run("from odedeploy.search import search; print(search.__module__)")
    assert done.stdout.strip() == "odedeploy.search.planning", done.stderr


def _site(times: tuple[float, ...]):  # type: ignore[no-untyped-def]
    from odedeploy.graph import Site

    return Site("s", "field", times, 1, "dopri5")


def _classical(graph: odedeploy.OdeGraph, solver: str, steps: int) -> Plan:
    method = SOLVERS[solver]
    return Plan(
        tuple(
            s.kept or solve_plan(s.name, method, Grid.through(s.times, steps))
            for s in graph.sites
        )
    )


def _prepared(graph: odedeploy.OdeGraph) -> tuple[Splits, object]:
    splits = split(inputs_of(), SPEC)
    return splits, solve(live(graph), graph.sites, splits.inputs, SPEC.tol)


def _study(graph: odedeploy.OdeGraph):  # type: ignore[no-untyped-def]
    from odedeploy.search.ladder import Ladder
    from odedeploy.search.layout import Layout
    from odedeploy.search.study import Study
    from odedeploy.solvers import LADDER

    splits, reference = _prepared(graph)
    study = Study(
        live(graph), Layout.even(graph.sites), SPEC, splits, reference, lambda *work: None
    )
    methods = [SOLVERS[name] for name in LADDER]
    return study, Ladder(study.layout, methods, study.error, study.target, study.progress)


def _errors_against_fine(
    graph: odedeploy.OdeGraph, inputs: dict[str, np.ndarray]
) -> Callable[[Plan], float]:
    evaluator = live(graph)
    truth = evaluator.run(_classical(graph, "rk4", 64), inputs, "float64").outputs["output"]

    def error(plan: Plan) -> float:
        found = evaluator.run(plan, inputs, "float64").outputs["output"]
        return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))

    return error


def test_one_number_an_input_is_judged_like_a_row_of_one() -> None:
    truth = np.array([3.0, 4.0], np.float32)
    for shape in ((2,), (2, 1), (2, 1, 1)):
        target = _target(truth.reshape(shape), None)
        wrong = torch.tensor([3.0, 5.0]).reshape(shape)
        torch.testing.assert_close(target(wrong), torch.tensor([[0], [1 / 4]]).double())
