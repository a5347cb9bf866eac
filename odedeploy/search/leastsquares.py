"""Learned coefficients in closed form: constrained least squares on computed slopes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from odedeploy.frontends.evaluation import TorchEvaluator
from odedeploy.frontends.observing import Visits, visits
from odedeploy.graph import Inputs, Site
from odedeploy.program import Dense, Plan, SolvePlan, contract, expand
from odedeploy.search.learned import NAME

RIDGE = 1e-4
"""Pull of a least-squares row towards the row it starts from, relative to its slopes."""


def least_squares(
    evaluator: TorchEvaluator, sites: Sequence[Site], start: Plan, inputs: Inputs, truth: Plan
) -> Plan:
    """Coefficients in closed form: each stage comes as close to the solution as its slopes allow.

    Row i minimises ‖Σ_j B_ij k_j − (y(t_i) − x_0)‖² + ridge‖B_i − B_i⁰‖² under Σ_j B_ij = t_i,
    stage by stage, the slopes k_j being those of the stages before; then the weights the same.
    ``truth`` evaluates the fields along the solution, finely. Needs no gradients.
    """
    solution = visits(evaluator, truth, inputs)
    dense = {s.name: expand(p.program) for s, p in zip(sites, start.solves, strict=True)}
    free = [site for site in sites if site.kept is None]
    plan = start
    for i in range(1, max(dense[site.name].stages for site in free) + 1):
        seen = visits(evaluator, plan, inputs)
        for site in free:
            _fit_row(dense[site.name], i, site, seen[site.name], solution[site.name])
        plan = _replaced(plan, dense, free)
    return plan


def _fit_row(dense: Dense, i: int, site: Site, seen: Visits, solution: Visits) -> None:
    """Row i of ``dense``, or after the last one its weights, in place."""
    if i > dense.stages:
        return
    slopes = seen.slopes[:i].reshape(i, -1).astype(np.float64)
    if i < dense.stages:
        dense.rows[i, :i] = _constrained(slopes, dense.rows[i, :i], solution, dense.times[i])
        return
    for output in range(1, len(site.times)):
        dense.weights[output] = _constrained(
            slopes, dense.weights[output], solution, site.times[output]
        )


def _constrained(
    slopes: np.ndarray, start: np.ndarray, solution: Visits, time: float
) -> np.ndarray:
    """The least-squares row, its sum that of ``start`` (KKT system of one constraint)."""
    change = (_state_at(solution, time) - solution.states[0]).reshape(-1).astype(np.float64)
    n = len(slopes)
    gram = slopes @ slopes.T
    ridge = RIDGE * np.trace(gram) / n
    system = np.block(
        [[gram + ridge * np.eye(n), np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]]
    )
    right = np.append(slopes @ change + ridge * start, start.sum())
    found: np.ndarray = np.linalg.lstsq(system, right, rcond=None)[0][:n]
    return found


def _state_at(solution: Visits, time: float) -> np.ndarray:
    """Cubic Hermite interpolation between the evaluations; beyond the last by its slope."""
    times = solution.times
    direction = np.sign(times[-1] - times[0])
    k = int(np.clip(np.searchsorted(direction * times, direction * time) - 1, 0, len(times) - 2))
    h = times[k + 1] - times[k]
    s = (time - times[k]) / h
    y0, y1 = solution.states[k], solution.states[k + 1]
    f0, f1 = h * solution.slopes[k], h * solution.slopes[k + 1]
    if s > 1:
        state: np.ndarray = y1 + (s - 1) * f1 + (s - 1) ** 2 / 2 * (f1 - f0)
        return state
    a, b = (1 + 2 * s) * (1 - s) ** 2, s * (1 - s) ** 2
    c, d = s * s * (3 - 2 * s), s * s * (s - 1)
    mixed: np.ndarray = a * y0 + b * f0 + c * y1 + d * f1
    return mixed


def _replaced(plan: Plan, dense: Mapping[str, Dense], free: Sequence[Site]) -> Plan:
    changed = {site.name for site in free}
    return Plan(
        tuple(
            SolvePlan(s.site, NAME, s.grid, contract(dense[s.site])) if s.site in changed else s
            for s in plan.solves
        )
    )
