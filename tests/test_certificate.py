"""The certificate is exact: against sums of binomial terms, published counts and simulation."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest

from odedeploy.search.certificate import (
    achievable,
    allowed_violations,
    bound,
    clopper_pearson,
    judge,
    minimum_samples,
    order_statistic,
    promise,
)

COUNTS = {0.95: [59, 93, 124, 153, 181, 208], 0.99: [299, 473, 628, 773]}


def binomial_cdf(k: int, n: int, p: Fraction) -> Fraction:
    return sum((comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)), Fraction(0))


@pytest.mark.parametrize("coverage", ["1/2", "9/10", "19/20"])
@pytest.mark.parametrize("confidence", ["9/10", "19/20"])
def test_order_statistic_equals_exact_binomial_sums(coverage: str, confidence: str) -> None:
    share, sure = Fraction(coverage), Fraction(confidence)
    for n in range(1, 75):
        exact = next((k for k in range(1, n + 1) if binomial_cdf(k - 1, n, share) >= sure), None)
        assert order_statistic(n, float(share), float(sure)) == exact


@pytest.mark.parametrize(
    ("coverage", "violations", "n"),
    [(coverage, m, n) for coverage, row in COUNTS.items() for m, n in enumerate(row)],
)
def test_known_counts(coverage: float, violations: int, n: int) -> None:
    assert allowed_violations(n, coverage, 0.95) == violations
    fewer = allowed_violations(n - 1, coverage, 0.95)
    assert fewer == (violations - 1 if violations else None)


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.95, 0.99, 0.999])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_minimum_samples_is_the_smallest(coverage: float, confidence: float) -> None:
    n = minimum_samples(coverage, confidence)
    assert coverage**n <= 1 - confidence + 1e-12
    assert n == 1 or coverage ** (n - 1) > 1 - confidence


def test_bound_is_the_kth_smallest_error() -> None:
    errors = np.random.default_rng(0).permutation(np.arange(1.0, 94.0))
    assert bound(errors, 0.95, 0.95) == 92.0
    assert bound(errors[:58], 0.95, 0.95) is None


def test_nan_counts_as_infinite() -> None:
    errors = np.array([np.nan, *np.zeros(58)])
    assert bound(errors, 0.95, 0.95) == np.inf
    certificate = judge(errors, 1.0, 0.95, 0.95)
    assert not certificate.passed
    assert certificate.violations == 1


@pytest.mark.parametrize("n", [1, 5, 20, 58])
def test_too_few_inputs_certify_what_they_support(n: int) -> None:
    certificate = judge(np.linspace(0.1, 1.0, n), 1.0, 0.95, 0.95)
    assert certificate.passed
    assert certificate.bound == certificate.max
    assert certificate.coverage == pytest.approx(0.05 ** (1 / n)) == achievable(n, 0.95)
    assert minimum_samples(certificate.coverage - 1e-9, 0.95) == n
    assert not judge(np.linspace(0.1, 1.1, n), 1.0, 0.95, 0.95).passed or n == 1


@pytest.mark.parametrize(("violations", "n"), [(0, 10), (1, 10), (5, 59), (10, 10)])
def test_clopper_pearson_ends_have_exact_tails(violations: int, n: int) -> None:
    low, high = clopper_pearson(violations, n, 0.9)
    assert low <= violations / n <= high
    if violations:
        assert 1 - binomial_cdf(violations - 1, n, Fraction(low)) == pytest.approx(0.05)
    if violations < n:
        assert binomial_cdf(violations, n, Fraction(high)) == pytest.approx(0.05)


def test_promise_says_what_is_promised() -> None:
    full = promise(1e-2, 750, 0.99, 0.95)
    assert "95 % confidence at least 99 % of inputs" in full
    assert "at most 0.01" in full
    assert "750" in full
    less = promise(1e-2, 50, 0.99, 0.95)
    assert "Only 50" in less
    assert "299 are needed" in less
    assert "at least 94.18 % of inputs" in less


def _errors(shares: np.ndarray, n: int, rng: np.random.Generator, shared: bool) -> np.ndarray:
    """Errors of candidates whose true coverage of the tolerance 1 is ``shares``, shape (M, n)."""
    draws = rng.random((1, n) if shared else (len(shares), n))
    return draws / shares[:, None]


@pytest.mark.parametrize("n", [59, 124, 208])
@pytest.mark.parametrize("candidates", [3, 10])
@pytest.mark.parametrize("shared", [False, True])
def test_fixed_sequence_keeps_the_promise(n: int, candidates: int, shared: bool) -> None:
    """1,000 searches: the last plan that passed covers less than promised in at most 5 %."""
    rng = np.random.default_rng(candidates)
    shares = np.linspace(0.999, 0.93, candidates)
    broken = 0
    for _ in range(1000):
        chosen = None
        for share, errors in zip(shares, _errors(shares, n, rng, shared), strict=True):
            if not judge(errors, 1.0, 0.95, 0.95).passed:
                break
            chosen = share
        broken += chosen is not None and chosen < 0.95
    assert broken / 1000 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)


def test_walking_up_until_one_passes_breaks_the_promise() -> None:
    rng = np.random.default_rng(0)
    shares = np.linspace(0.949, 0.93, 10)
    naive = sum(
        any(judge(errors, 1.0, 0.95, 0.95).passed for errors in _errors(shares, 124, rng, False))
        for _ in range(1000)
    )
    fixed = sum(
        judge(_errors(shares, 124, rng, False)[0], 1.0, 0.95, 0.95).passed for _ in range(1000)
    )
    assert fixed / 1000 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)
    assert naive / 1000 > 0.10
