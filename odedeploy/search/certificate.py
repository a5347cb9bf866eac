"""What can be promised about inputs never seen, from the errors of inputs that chose nothing.

Distribution-free order statistics: of n independent inputs, the k-th smallest error lies above
the ``coverage`` quantile of the error with probability P(Bin(n, coverage) ≤ k − 1), whatever the
distribution (Wilks 1941; David and Nagaraja 2003, section 7.1). Testing several plans in an order
fixed beforehand and stopping at the first failure keeps the same confidence for the last one that
passed, without any correction (Angelopoulos et al. 2021, "Learn then Test", fixed-sequence
testing).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats


@cache
def order_statistic(n: int, coverage: float, confidence: float) -> int | None:
    """The smallest k, from 1, for which the k-th smallest of n errors bounds the ``coverage``
    quantile from above with ``confidence``; None when n is too small for any.
    """
    ranks = np.arange(n)
    sure = stats.binom.cdf(ranks, n, coverage) >= confidence
    return int(np.argmax(sure)) + 1 if sure.any() else None


def minimum_samples(coverage: float, confidence: float) -> int:
    """Fewest inputs, none in violation, that give the promise: coverageⁿ ≤ 1 − confidence."""
    n = max(1, math.floor(math.log1p(-confidence) / math.log(coverage)) - 1)
    while order_statistic(n, coverage, confidence) is None:
        n += 1
    return n


def allowed_violations(n: int, coverage: float, confidence: float) -> int | None:
    """How many of n inputs may miss the tolerance; None when n is too small for the promise."""
    k = order_statistic(n, coverage, confidence)
    return None if k is None else n - k


def bound(errors: np.ndarray, coverage: float, confidence: float) -> float | None:
    """The value that at least ``coverage`` of inputs stay below with ``confidence``.

    ``errors`` has shape (n,); NaN counts as infinite. None when n is too small.
    """
    k = order_statistic(len(errors), coverage, confidence)
    return None if k is None else float(np.sort(_worst(errors))[k - 1])


def achievable(n: int, confidence: float) -> float:
    """The coverage that n inputs without a violation support: (1 − confidence)^(1/n)."""
    return float((1 - confidence) ** (1 / n))


def clopper_pearson(violations: int, n: int, confidence: float) -> tuple[float, float]:
    """Exact two-sided interval for the share of inputs in violation (Clopper and Pearson 1934)."""
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, violations, n - violations + 1) if violations else 0.0
    high = stats.beta.ppf(1 - tail, violations + 1, n - violations) if violations < n else 1.0
    return float(low), float(high)


def promise(tol: float, samples: int, coverage: float, confidence: float) -> str:
    """One sentence: what a passed certificate over ``samples`` inputs promises.

    With too few inputs for ``coverage`` and ``confidence`` it says how many are needed and what is
    promised instead.
    """
    needed = minimum_samples(coverage, confidence)
    if samples >= needed:
        return (
            f"With {_percent(confidence)} confidence at least {_percent(coverage)} of inputs like "
            f"the calibration inputs have an error of at most {tol:g} "
            f"({samples} certification inputs)."
        )
    return (
        f"Only {samples} certification inputs, where {needed} are needed to promise "
        f"{_percent(coverage)} of inputs: promised instead, with {_percent(confidence)} "
        f"confidence, is an error of at most {tol:g} for at least "
        f"{_percent(achievable(samples, confidence))} of inputs like the calibration inputs."
    )


@dataclass(frozen=True)
class Certificate:
    """Outcome of testing one plan on the certification inputs.

    ``bound`` is the value that at least ``coverage`` of inputs stay below with ``confidence``;
    with too few inputs for the coverage that was asked, ``coverage`` is the achievable one and
    ``bound`` the largest error. ``violations`` counts the inputs above the tolerance and ``passed``
    says that ``bound`` does not exceed it.
    """

    bound: float
    max: float
    median: float
    coverage: float
    confidence: float
    samples: int
    violations: int
    passed: bool


def judge(errors: np.ndarray, tol: float, coverage: float, confidence: float) -> Certificate:
    """The certificate of ``errors``, shape (n,), one an input; NaN counts as infinite."""
    errors = _worst(errors)
    value = bound(errors, coverage, confidence)
    if value is None:
        value, coverage = float(errors.max()), achievable(len(errors), confidence)
    return Certificate(
        bound=value,
        max=float(errors.max()),
        median=float(np.median(errors)),
        coverage=coverage,
        confidence=confidence,
        samples=len(errors),
        violations=int(np.sum(errors > tol)),
        passed=value <= tol,
    )


def _worst(errors: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(errors), np.inf, errors)


def _percent(share: float) -> str:
    """Rounded down, so that a promise is never overstated."""
    return f"{math.floor(share * 1e4 + 1e-6) / 100:g} %"
