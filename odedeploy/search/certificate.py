"""What can be promised about inputs never seen, from the errors of inputs that chose nothing.

Distribution-free order statistics: of n independent inputs, the k-th smallest error lies above
the ``coverage`` quantile of the error with probability P(Bin(n, coverage) ≤ k − 1), whatever the
distribution (Wilks 1941; David and Nagaraja 2003, section 7.1). Testing several plans in an order
fixed beforehand and stopping at the first failure keeps the same confidence for the last one that
passed, without any correction (Angelopoulos et al. 2021, "Learn then Test", fixed-sequence
testing).

A bound on the share of inputs in violation is the same statement read the other way: at most
``allowed_violations`` of n is the same as a Clopper–Pearson upper bound of at most 1 − coverage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

from odedeploy.metrics import Metric


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


@cache
def highest_rate(violations: int, n: int, confidence: float) -> float:
    """The largest share of inputs in violation, with ``confidence``, when ``violations`` of n are.

    Clopper and Pearson's exact one-sided bound; 1 − ``achievable`` when there are none.
    """
    if violations >= n:
        return 1.0
    return float(stats.beta.ppf(confidence, violations + 1, n - violations))


def promise(metric: Metric, samples: int, confidence: float) -> str:
    """One sentence: what a passed certificate over ``samples`` inputs promises.

    With too few inputs for the metric's coverage and ``confidence`` it says how many are needed and
    what is promised instead.
    """
    needed = minimum_samples(metric.coverage, confidence)
    least = metric.coverage if samples >= needed else achievable(samples, confidence)
    share = (
        f"at most {_percent(1 - least, up=True)} of inputs like the calibration inputs "
        f"{metric.misses}"
        if metric.counts
        else f"at least {_percent(least)} of inputs like the calibration inputs {metric.keeps}"
    )
    if samples >= needed:
        return (
            f"With {_percent(confidence)} confidence {share} ({samples} certification inputs)."
        )
    asked = 1 - metric.coverage if metric.counts else metric.coverage
    return (
        f"Only {samples} certification inputs, where {needed} are needed to promise "
        f"{_percent(asked, up=metric.counts)} of inputs: promised instead, with "
        f"{_percent(confidence)} confidence, is that {share}."
    )


def shortfall(metric: Metric, certificate: Certificate) -> str:
    """What a certificate that was not passed reaches: ``reaches an error of …, above …``."""
    if not metric.counts:
        return (
            f"reaches an error of {certificate.bound:.3g} on the certification inputs, above "
            f"{certificate.limit:g}, which is the tolerance {metric.limit:g} less the share of the "
            "reference"
        )
    return (
        f"makes {certificate.violations} of {certificate.samples} certification inputs "
        f"{metric.misses}, which may be {_percent(certificate.rate, up=True)} of all inputs, above "
        f"{_percent(1 - certificate.coverage, up=True)}"
    )


@dataclass(frozen=True)
class Certificate:
    """Outcome of testing one plan on the certification inputs.

    ``bound`` is the value that at least ``coverage`` of inputs stay below with ``confidence``;
    with too few inputs for the coverage that was asked, ``coverage`` is the achievable one and
    ``bound`` the largest error. ``violations`` counts the inputs above ``limit``, ``rate`` is
    their share of all inputs at the most, with ``confidence``, and ``passed`` says that ``bound``
    does not exceed the limit.
    """

    bound: float
    max: float
    median: float
    coverage: float
    confidence: float
    samples: int
    limit: float
    violations: int
    rate: float
    passed: bool


def judge(errors: np.ndarray, tol: float, coverage: float, confidence: float) -> Certificate:
    """The certificate of ``errors``, shape (n,), one an input; NaN counts as infinite."""
    errors = _worst(errors)
    value = bound(errors, coverage, confidence)
    if value is None:
        value, coverage = float(errors.max()), achievable(len(errors), confidence)
    violations = int(np.sum(errors > tol))
    return Certificate(
        bound=value,
        max=float(errors.max()),
        median=float(np.median(errors)),
        coverage=coverage,
        confidence=confidence,
        samples=len(errors),
        limit=tol,
        violations=violations,
        rate=highest_rate(violations, len(errors), confidence),
        passed=value <= tol,
    )


def _worst(errors: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(errors), np.inf, errors)


def _percent(share: float, up: bool = False) -> str:
    """Rounded so that a promise is never overstated: down, or ``up`` to three digits or so."""
    if not up:
        return f"{math.floor(share * 1e4 + 1e-6) / 100:g} %"
    unit = 10.0 ** (math.floor(math.log10(share)) - 2)
    return f"{math.ceil(share / unit - 1e-6) * unit * 100:.6g} %"
