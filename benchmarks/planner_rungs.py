"""The rungs of the planner's table: the plan that each finds, and its error on untouched inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from planner_cases import Case

from odedeploy.errors import BadInput
from odedeploy.search.measure import errors_of, quantile
from odedeploy.search.study import CLASSICAL, Rung

FINALISTS = 2
"""Plans of a rung that are ranked on all of fit and validate, by their errors on some of fit."""

UNIFORM = "rk4"

ONE_BY_ONE = 128
"""Inputs of the third split that the adaptive solve is measured on, each alone."""


def adaptive(case: Case, setting: float) -> list[dict[str, Any]]:
    """The model as it is written, with dopri5 at rtol = atol = ``setting``, input by input."""
    before, case.model.tolerance = case.model.tolerance, setting
    try:
        few = case.study.few(case.splits.certify, ONE_BY_ONE)
        found, evaluations = case.evaluator.as_written(few.inputs)
    finally:
        case.model.tolerance = before
    errors = case.reference.errors(found, few.rows)
    return [{"rung": "adaptive", "solver": "dopri5", "nfe": evaluations, **summary(errors)}]


def classical(case: Case, n: int) -> list[dict[str, Any]]:
    """The best of the catalogue's methods in uniform steps with ``n`` evaluations, and RK4."""
    with case.study.screening():
        rungs = case.search.ladder.exactly(n)
    lines = [chosen(case, CLASSICAL, rungs)] if rungs else []
    uniform = [rung for rung in rungs if rung.solver == UNIFORM]
    return lines + ([chosen(case, UNIFORM, uniform)] if uniform else [])


def fitted(case: Case, n: int) -> list[dict[str, Any]]:
    """Grids, learned and distilled solvers with ``n`` evaluations, as the search finds them."""
    try:
        rungs = case.search.exactly(n)
    except BadInput:  # no plan has n evaluations
        return []
    kinds = dict.fromkeys(rung.kind for rung in rungs if rung.kind != CLASSICAL)
    return [chosen(case, kind, [r for r in rungs if r.kind == kind]) for kind in kinds]


def chosen(case: Case, name: str, rungs: list[Rung]) -> dict[str, Any]:
    """The best of ``rungs`` on fit and validate, and its errors on the third split."""
    finalists = sorted(rungs, key=lambda rung: rung.error)[:FINALISTS]
    best = min(case.study.rank(finalists), key=lambda candidate: candidate.error)
    errors = errors_of(case.evaluator, best.plan, case.splits.certify, case.reference)
    return {"rung": name, "solver": best.solver, "nfe": best.evaluations, "ranked": best.error,
            **summary(errors)}  # fmt: skip


def summary(errors: np.ndarray) -> dict[str, float]:
    """Quantiles of the errors of single inputs."""
    shares = {"q50": 0.5, "q95": 0.95, "q99": 0.99}
    found = {name: quantile(errors, share) for name, share in shares.items()}
    return found | {"max": float(errors.max())}
