"""The rungs of the planner's table: the plan that each finds, and its error on untouched inputs."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from planner_cases import Case

from odedeploy.program import Plan
from odedeploy.reference import silent, take
from odedeploy.search.layout import Layout
from odedeploy.search.measure import errors_of, quantile, rank
from odedeploy.search.splits import Fit
from odedeploy.solvers import LADDER, find

SCREEN = 64
"""Inputs of fit on which classical methods are compared first."""

FINALISTS = 2
"""Plans of a rung that are ranked on all of fit and validate."""

UNIFORM = "rk4"


def adaptive(case: Case, setting: float) -> list[dict[str, Any]]:
    """The model as it is written, with dopri5 at rtol = atol = ``setting``, input by input."""
    before, case.model.tolerance = case.model.tolerance, setting
    try:
        found, evaluations = case.evaluator.as_written(case.splits.certify.inputs)
    finally:
        case.model.tolerance = before
    errors = case.reference.errors(found, case.splits.certify.rows)
    return [{"rung": "adaptive", "solver": "dopri5", "nfe": evaluations, **summary(errors)}]


def classical(case: Case, n: int) -> list[dict[str, Any]]:
    """The best of the catalogue's methods in uniform steps with ``n`` evaluations, and RK4."""
    layout = Layout.even(case.sites)
    plans = [(name, layout.plan(find(name), n)) for name in LADDER]
    exact = {name: plan for name, plan in plans if plan and plan.evaluations == n}
    rows = np.arange(min(SCREEN, len(case.splits.fit)))
    screen = Fit(case.splits.fit.rows[rows], take(case.splits.fit.inputs, rows))
    seen = {
        name: quantile(errors_of(case.evaluator, plan, screen, case.reference), case.spec.coverage)
        for name, plan in exact.items()
    }
    best = sorted(seen, key=lambda name: seen[name])[:FINALISTS]
    lines = [chosen(case, "classical", [(name, exact[name]) for name in best])] if best else []
    if UNIFORM in exact:
        lines.append(chosen(case, UNIFORM, [(UNIFORM, exact[UNIFORM])]))
    return lines


def fitted(case: Case, n: int) -> list[dict[str, Any]]:
    """Grids, learned and distilled solvers with ``n`` evaluations, as the search finds them."""
    from odedeploy.search.improvement import Improvement
    from odedeploy.search.ladder import Ladder
    from odedeploy.search.study import OutOfTime, Study

    study = Study(case.evaluator, Layout.even(case.sites), case.spec, case.splits, case.reference,
                  silent)  # fmt: skip
    ladder = Ladder(study.layout, [find(name) for name in LADDER], study.error, study.target,
                    silent)  # fmt: skip
    improvement = Improvement(study, ladder, case.evaluator)
    with study.screening(), suppress(OutOfTime):
        improvement.exactly(n)
    lines = []
    for kind in dict.fromkeys(rung.kind for rung in improvement.rungs):
        own = sorted((r for r in improvement.rungs if r.kind == kind), key=lambda r: r.error)
        lines.append(chosen(case, kind, [(r.solver, r.plan) for r in own[:FINALISTS]]))
    return lines


def chosen(case: Case, rung: str, plans: list[tuple[str, Plan]]) -> dict[str, Any]:
    """The best of ``plans`` on fit and validate, and its errors on the third split."""
    splits = case.splits
    ranked = [
        rank(case.evaluator, plan, solver, splits.fit, splits.validate, case.reference,
             case.spec.coverage)
        for solver, plan in plans
    ]  # fmt: skip
    best = min(ranked, key=lambda candidate: candidate.error)
    errors = errors_of(case.evaluator, best.plan, splits.certify, case.reference)
    return {"rung": rung, "solver": best.solver, "nfe": best.evaluations, "ranked": best.error,
            **summary(errors)}  # fmt: skip


def summary(errors: np.ndarray) -> dict[str, float]:
    """Quantiles of the errors of single inputs."""
    shares = {"q50": 0.5, "q95": 0.95, "q99": 0.99}
    found = {name: quantile(errors, share) for name, share in shares.items()}
    return found | {"max": float(errors.max())}
