"""Percentiles a sample can support, and their uncertainty.

A percentile p is reported only from n samples with pⁿ ≤ 1 − c at confidence c = 0.99, that is
from 7 samples for the median, 44 for p90 and 459 for p99; its upper bound is the early-stopping
estimate of MLPerf Inference (loadgen, ``early_stopping``): as many of the slowest samples are
discarded as the binomial law allows, and the slowest of the rest is reported. Nothing else is
ever discarded. Consecutive latencies are correlated, so what compares two rows is taken from
rounds, which lie apart in time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.99
RESAMPLES = 2000


def needed(p: float, confidence: float = CONFIDENCE) -> int:
    """Fewest samples whose maximum bounds the quantile ``p`` from above."""
    return math.ceil(math.log(1 - confidence) / math.log(p) - 1e-12)


def percentile(samples: np.ndarray, p: float) -> float | None:
    """The smallest sample that at least a share ``p`` does not exceed; None for a small sample."""
    if len(samples) < needed(p):
        return None
    return float(np.quantile(samples, p, method="inverted_cdf"))


def upper_bound(samples: np.ndarray, p: float, confidence: float = CONFIDENCE) -> float | None:
    """What the quantile ``p`` of the population stays below with ``confidence``.

    The k-th of n sorted samples, k the smallest with P(Binomial(n, p) ≥ k) ≤ 1 − confidence.
    """
    from scipy.stats import binom

    n = len(samples)
    if n < needed(p, confidence):
        return None
    ranks = np.arange(1, n + 1)
    enough = binom.sf(ranks - 1, n, p) <= 1 - confidence
    k = int(ranks[np.argmax(enough)]) if enough.any() else n
    return float(np.partition(samples, k - 1)[k - 1])


def bootstrap(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the median of ``values``, shape (rounds,)."""
    picks = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(np.median(values[picks], axis=1), (0.025, 0.975))
    return float(low), float(high)


def round_medians(rounds: Sequence[np.ndarray]) -> np.ndarray:
    """Shape (rounds,)."""
    return np.array([np.median(samples) for samples in rounds])
