"""The certificate is exact: against sums of binomial terms, published counts and simulation."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odedeploy import metrics
from odedeploy.search.certificate import (
    achievable,
    allowed_violations,
    bound,
    clopper_pearson,
    highest_rate,
    judge,
    minimum_samples,
    order_statistic,
    promise,
)
from odedeploy.spec import ExportSpec

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


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [1, 10, 59, 300])
def test_highest_rate_has_an_exact_tail(n: int, confidence: float) -> None:
    for violations in {0, 1, n // 10} - {n}:
        rate = highest_rate(violations, n, confidence)
        tail = binomial_cdf(violations, n, Fraction(rate).limit_denominator(10**9))
        assert float(tail) == pytest.approx(1 - confidence, rel=1e-4)
    assert highest_rate(n, n, confidence) == 1.0
    assert highest_rate(0, n, confidence) == pytest.approx(1 - achievable(n, confidence))


@given(
    n=st.integers(1, 4000),
    coverage=st.floats(0.5, 0.9995),
    confidence=st.floats(0.5, 0.999),
    data=st.data(),
)
def test_quantile_and_rate_say_the_same(
    n: int, coverage: float, confidence: float, data: st.DataObject
) -> None:
    """An order-statistic bound within the tolerance is a Clopper-Pearson bound within the rate."""
    violations = data.draw(st.integers(0, min(n, 20)))
    errors = np.concatenate([np.full(violations, 2.0), np.zeros(n - violations)])
    certificate = judge(errors, 1.0, coverage, confidence)
    assert certificate.violations == violations
    rate = highest_rate(violations, n, confidence)
    assert certificate.rate == rate
    if abs(rate - (1 - certificate.coverage)) > 1e-9:
        assert certificate.passed == (rate < 1 - certificate.coverage)


@given(
    errors=st.lists(st.floats(0, 10) | st.just(np.inf) | st.just(np.nan), min_size=1, max_size=80),
    tol=st.floats(1e-3, 10),
    coverage=st.floats(0.5, 0.99),
)
def test_a_certificate_never_gets_better_when_an_error_grows(
    errors: list[float], tol: float, coverage: float
) -> None:
    before = judge(np.array(errors), tol, coverage, 0.95)
    for place in range(0, len(errors), 7):
        worse = np.array(errors)
        worse[place] = np.inf
        after = judge(worse, tol, coverage, 0.95)
        assert after.bound >= before.bound
        assert after.rate >= before.rate
        assert before.passed or not after.passed


OUTPUT = metrics.of(ExportSpec(tol=1e-2))


def test_promise_says_what_is_promised() -> None:
    full = promise(OUTPUT, 750, 0.95)
    assert "95 % confidence at least 99 % of inputs" in full
    assert "at most 0.01" in full
    assert "750" in full
    less = promise(OUTPUT, 50, 0.95)
    assert "Only 50" in less
    assert "299 are needed" in less
    assert "at least 94.18 % of inputs" in less


@pytest.mark.parametrize("samples", [1, 50, 444, 1792, 2994])
def test_promise_of_a_share_is_never_overstated(samples: int) -> None:
    agreement = metrics.of(ExportSpec(tol=1e-3, metric="agreement"))
    said = promise(agreement, samples, 0.95)
    assert f"Only {samples} certification inputs, where 2995 are needed to promise 0.1 %" in said
    share = float(said.rpartition("at most ")[2].partition(" %")[0]) / 100
    exact = 1 - achievable(samples, 0.95)
    assert exact <= share <= 1.01 * exact
    full = promise(agreement, 2995, 0.95)
    assert "at most 0.1 % of inputs like the calibration inputs change their class" in full


def _errors(shares: np.ndarray, n: int, rng: np.random.Generator, shared: bool) -> np.ndarray:
    """Errors of candidates whose true coverage of the tolerance 1 is ``shares``, shape (M, n)."""
    draws = rng.random((1, n) if shared else (len(shares), n))
    return draws / shares[:, None]


@pytest.mark.parametrize("n", [59, 208, 500])
@pytest.mark.parametrize("candidates", [3, 20])
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


@pytest.mark.parametrize("n", [124, 500])
@pytest.mark.parametrize("candidates", [3, 10])
def test_walking_up_until_one_passes_breaks_the_promise(n: int, candidates: int) -> None:
    """The same candidates and draws, none of which covers what is promised, in both orders."""
    rng = np.random.default_rng(candidates)
    shares = np.linspace(0.9499, 0.9495, candidates)
    naive = fixed = 0
    for _ in range(1000):
        passed = [
            judge(errors, 1.0, 0.95, 0.95).passed for errors in _errors(shares, n, rng, False)
        ]
        naive += any(passed)
        fixed += passed[0]
    limit = 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)
    assert fixed / 1000 <= limit < naive / 1000
