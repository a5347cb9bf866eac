"""Errors of plans: ranked on two of the splits, certified on the third."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from odedeploy.graph import Evaluator
from odedeploy.program import Plan
from odedeploy.reference import Reference
from odedeploy.search.certificate import Certificate, judge
from odedeploy.search.splits import Certify, Fit, Split, Validate


@dataclass(frozen=True)
class Candidate:
    """A plan and its error on the inputs that rank plans.

    ``fit_error`` and ``validate_error`` are the coverage quantile of the error per input, ``worst``
    its maximum over both splits. ``kind`` is how the plan was found: ``"classical"``, ``"grid"``,
    ``"learned"``, ``"distilled"`` or ``"adaptive"``, whose ``evaluations`` are a rounded mean.
    ``cost`` is what one input costs by the measure of the search, or None.
    """

    plan: Plan
    solver: str
    evaluations: int
    fit_error: float
    validate_error: float
    worst: float
    kind: str = "classical"
    cost: float | None = None

    @property
    def error(self) -> float:
        """The worse of the two splits; what plans are ranked by."""
        return max(self.fit_error, self.validate_error)

    @property
    def price(self) -> float:
        """What plans are ordered by: the measured cost, or the number of evaluations."""
        return self.evaluations if self.cost is None else self.cost


def quantile(errors: np.ndarray, coverage: float) -> float:
    """The smallest of n errors that a share ``coverage`` of them or more do not exceed."""
    rank = math.ceil(coverage * len(errors) - 1e-9)
    return float(np.sort(errors)[max(rank, 1) - 1])


def errors_of(evaluator: Evaluator, plan: Plan, split: Split, reference: Reference) -> np.ndarray:
    """Error of ``plan`` in float32 on every input of ``split``, shape (n,), by the metric of
    ``reference``, which holds all inputs in use; infinite where it leaves the finite numbers.
    """
    return reference.errors(evaluator.run(plan, split.inputs, "float32"), split.rows)


def rank(
    evaluator: Evaluator,
    plan: Plan,
    solver: str,
    fit: Fit,
    validate: Validate,
    reference: Reference,
    coverage: float,
) -> Candidate:
    """Score ``plan`` on all of fit and validate. Raises TypeError for any other split."""
    if not (isinstance(fit, Fit) and isinstance(validate, Validate)):
        raise TypeError(
            f"Ranking reads Fit and Validate, got {type(fit).__name__}, {type(validate).__name__}."
        )
    fitted, validated = (errors_of(evaluator, plan, part, reference) for part in (fit, validate))
    return Candidate(
        plan,
        solver,
        plan.evaluations,
        quantile(fitted, coverage),
        quantile(validated, coverage),
        float(max(fitted.max(), validated.max())),
    )


def certify(
    evaluator: Evaluator,
    plan: Plan,
    split: Certify,
    reference: Reference,
    tol: float,
    coverage: float,
    confidence: float,
) -> Certificate:
    """Test ``plan`` in float32 on the inputs that took no part in choosing it.

    Raises TypeError for any other split, whose inputs would void the promise.
    """
    if not isinstance(split, Certify):
        raise TypeError(f"A certificate reads Certify, got {type(split).__name__}.")
    errors = errors_of(evaluator, plan, split, reference)
    return judge(errors, tol, coverage, confidence)
