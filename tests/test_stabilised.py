"""Stabilised methods: exact order conditions, stability intervals, and what they save."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from odedeploy.errors import UnknownName
from odedeploy.frontends import capture_field, live
from odedeploy.graph import OdeGraph
from odedeploy.grid import Grid
from odedeploy.program import build, interpret
from odedeploy.reference import Reference, solve
from odedeploy.search import search, split
from odedeploy.search.layout import Layout
from odedeploy.search.stiffness import stiffness
from odedeploy.solvers import LADDER, STABILISED, find
from odedeploy.solvers.stabilised import FAMILIES, MOST, method
from odedeploy.spec import ExportSpec
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


class Diffusion(nn.Module):
    """dy/dt = κ Δy + sin y + 4 on a line of ``width`` cells with zero ends: ρ is about 4 κ."""

    def __init__(self, kappa: float, width: int = 16) -> None:
        super().__init__()
        ones = torch.ones(width - 1)
        laplacian = torch.diag(ones, 1) + torch.diag(ones, -1) - 2 * torch.eye(width)
        self.register_buffer("laplacian", kappa * laplacian)

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y @ self.laplacian + torch.sin(y) + 4.0


class Turning(nn.Module):
    """A rotation of rate ``rate``: as fast as a stiff field, and not stiff."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.rate * torch.stack([-y[:, 1], y[:, 0]], dim=1)


def started(field: nn.Module, width: int, t1: float = 1.0) -> tuple[OdeGraph, dict[str, Any]]:
    x = np.random.default_rng(0).standard_normal((700, width)).astype(np.float32)
    return capture_field(field, x[:8], 0.0, t1, {}), {"x": x}


@pytest.mark.parametrize("t1", [1.0, 0.25])
def test_the_spectral_radius_of_diffusion_is_found(t1: float) -> None:
    graph, inputs = started(Diffusion(40.0), 16, t1)
    (found,) = stiffness(live(graph), graph.sites, {"x": inputs["x"][:8]}).values()
    assert found.radius == pytest.approx(t1 * 40.0 * (2 + 2 * np.cos(np.pi / 17)), rel=0.1)
    assert found.direction < -0.95 and found.stiff


@pytest.mark.parametrize(
    "field, t1, radius",
    [(Diffusion(0.5), 1.0, 2.5), (Turning(50.0), 1.0, 50.0), (Diffusion(3.0), -1.0, 12.0)],
)
def test_gentle_turning_and_growing_fields_are_not_stiff(
    field: nn.Module, t1: float, radius: float
) -> None:
    width = 2 if isinstance(field, Turning) else 16
    graph, inputs = started(field, width, t1)
    (found,) = stiffness(live(graph), graph.sites, {"x": inputs["x"][:8]}).values()
    assert found.radius == pytest.approx(radius, rel=0.3) and not found.stiff


@pytest.mark.parametrize("tol, saved", [(1e-1, 0.6), (1e-2, 0.25)])
def test_stabilised_plans_of_a_stiff_field_save_evaluations(tol: float, saved: float) -> None:
    graph, inputs = started(Diffusion(40.0), 16)
    few = {"x": inputs["x"][:24]}
    reference = solve(live(graph), graph.sites, few, tol)
    textbook, stabilised = (fewest(graph, few, reference, tol, m) for m in (LADDER, STABILISED))
    assert stabilised <= (1 - saved) * textbook


def fewest(
    graph: OdeGraph, inputs: dict[str, Any], reference: Reference, tol: float, names: Any
) -> int:
    """Evaluations of the cheapest plan of the methods called ``names`` that keeps ``tol``."""
    layout = Layout.even(graph.sites)
    for total in range(3, 120):
        for name in names:
            plan = layout.plan(find(name), total)
            if plan is not None and plan.evaluations == total:
                outcome = live(graph).run(plan, inputs, "float32")
                if reference.errors(outcome, np.arange(24)).max() <= tol:
                    return total
    return 120


def test_a_search_on_a_stiff_field_takes_a_stabilised_plan() -> None:
    graph, inputs = started(Diffusion(40.0), 16)
    spec = ExportSpec(tol=1e-1, solver="classical", coverage=0.9, samples=100)
    splits = split(inputs, spec)
    reference = solve(live(graph), graph.sites, splits.inputs, spec.tol)
    found = search(live(graph), graph.sites, spec, splits, reference)
    assert found.certified and found.best.solver in STABILISED
    assert found.best.evaluations <= 40
