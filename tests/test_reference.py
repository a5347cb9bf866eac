"""The reference is right to 2 % of the tolerance for every input, or refuses."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_models import NumpyModel, model_of, network, points, rotation, site, spiral
from scipy.integrate import solve_ivp

from odedeploy.errors import BadInput, Diverged
from odedeploy.program import Plan
from odedeploy.reference import SHARE, solve
from odedeploy.tolerance import worst_error


def truth(model: NumpyModel, x: np.ndarray) -> dict[str, np.ndarray]:
    """Adaptive solves of one input at a time, at a far tighter tolerance."""
    rows = []
    for row in x.astype(float):
        for f, place in zip(model.fields, model.sites, strict=True):
            span = (place.times[0], place.times[-1])
            row = solve_ivp(
                lambda t, y, f=f: f(np.float64(t), y[None])[0], span, row, rtol=1e-11, atol=1e-12
            ).y[:, -1]
        rows.append(row)
    return {"y": np.array(rows)}


SMOOTH = ("tanh", "spiral", "reversed", "many times", "two")
KINDS = [(kind, tol) for kind in SMOOTH for tol in (1e-1, 1e-3, 1e-5)]


@pytest.mark.parametrize(("kind", "tol"), [*KINDS, ("relu", 1e-1), ("relu", 1e-3)])
def test_the_reference_keeps_its_share_of_the_tolerance(kind: str, tol: float) -> None:
    times = {"reversed": (1.0, 0.0), "many times": (0.0, 1e-3, 1e-2, 0.1, 1.0)}.get(
        kind, (0.0, 1.0)
    )
    fields = {
        "relu": [network(1, relu=True)],
        "spiral": [spiral()],
        "two": [network(2), network(3)],
    }.get(kind, [network(0)])
    sites = tuple(site(f"s{i}", times) for i in range(len(fields)))
    model = model_of(*fields, sites=sites)
    inputs = points(24, width=2 if kind == "spiral" else 4)
    reference = solve(model, sites, inputs, tol)
    assert reference.self_check <= SHARE * tol
    true = truth(model, inputs["x"])
    assert worst_error(reference.outcome.outputs, true).max() <= 1.5 * SHARE * tol
    assert reference.outcome.outputs["y"].dtype == np.float64


def test_every_input_is_checked_not_only_the_first_few() -> None:
    """One input of 500, off the rows that find the resolution, is a hundred times as fast."""
    model = NumpyModel([rotation], (site("solve0"),), head=lambda y: y[:, :2])
    rate = np.full(500, 0.5)
    rate[7] = 50.0
    x = np.stack([np.ones(500), np.zeros(500), rate], axis=1)
    reference = solve(model, model.sites, {"x": x}, 1e-3)
    exact = {"y": np.stack([np.cos(rate), np.sin(rate)], axis=1)}
    assert worst_error(reference.outcome.outputs, exact).max() <= SHARE * 1e-3
    assert len(reference.outcome.states["solve0"]) == 500
    assert model.spent / 500 < 100


def test_easy_solves_are_cheap() -> None:
    model = model_of(network(0))
    reference = solve(model, model.sites, points(1000), 1e-2)
    assert reference.evaluations <= 60
    assert model.spent / 1000 <= 80


def test_kept_sites_run_their_kept_plan() -> None:
    sites = (site("fixed", kept=("euler", 3)), site("free"))
    model = model_of(network(0), network(1), sites=sites)
    inputs = points(10)
    reference = solve(model, sites, inputs, 1e-3)
    assert all(plan["fixed"] == sites[0].kept for plan in model.plans)
    exact = interpret_kept(model, inputs)
    assert np.array_equal(reference.outcome.states["fixed"], exact)


def interpret_kept(model: NumpyModel, inputs: dict[str, np.ndarray]) -> np.ndarray:
    kept = model.sites[0].kept
    assert kept is not None
    first = NumpyModel(model.fields[:1], model.sites[:1])
    return first.run(Plan((kept,)), inputs, "float64").outputs["y"]


def test_a_model_of_fixed_steps_is_its_own_reference() -> None:
    sites = (site("fixed", kept=("rk4", 5)),)
    model = model_of(network(0), sites=sites)
    reference = solve(model, sites, points(10), 1e-3)
    assert (reference.method, reference.self_check, reference.evaluations) == ("kept", 0.0, 20)
    assert len(model.plans) == 1


def test_blow_up_is_refused() -> None:
    model = model_of(lambda t, y: y**2)
    x = np.full((40, 1), 0.1)
    x[3] = 1e3
    with pytest.raises(Diverged, match=r"leaves the finite numbers for 1 inputs of 40.*row 3"):
        solve(model, model.sites, {"x": x}, 1e-2)


def test_kept_blow_up_is_refused() -> None:
    sites = (site("fixed", kept=("euler", 20)),)
    model = model_of(lambda t, y: y**3, sites=sites)
    with pytest.raises(Diverged, match="leaves the finite numbers"):
        solve(model, sites, {"x": np.full((4, 1), 1e8)}, 1e-2)


def test_too_stiff_to_resolve_is_refused() -> None:
    model = model_of(lambda t, y: -1e5 * (y - np.cos(t)))
    with pytest.raises(BadInput, match="leaves the finite|stiff or discontinuous"):
        solve(model, model.sites, points(4), 1e-4)


def test_a_field_without_a_limit_is_refused_with_the_difference_reached() -> None:
    """A field that changes with every evaluation time has no solution to converge to."""
    model = model_of(lambda t, y: np.sin(1e9 * float(t) ** 2) * 5 + 0 * y)
    with pytest.raises(BadInput, match=r"2% of the tolerance 0.0001.*differ by [0-9.e-]+; .*stiff"):
        solve(model, model.sites, points(4), 1e-4)


def test_outputs_without_a_batch_axis_are_refused() -> None:
    model = NumpyModel([network(0)], (site("s"),), head=lambda y: y.T)
    with pytest.raises(BadInput, match=r"'y' has shape \(4, 10\) for 10 inputs"):
        solve(model, model.sites, points(10), 1e-2)


def test_progress_rises_to_its_total() -> None:
    seen: list[tuple[str, int, int]] = []
    model = model_of(network(1, relu=True))
    solve(model, model.sites, points(600), 1e-2, lambda *report: seen.append(report))
    done = [entry[1] for entry in seen]
    assert done == sorted(done)
    assert {entry[0] for entry in seen} == {"reference"}
    assert all(now <= total for _, now, total in seen)
    assert seen[-1][1] == seen[-1][2]
