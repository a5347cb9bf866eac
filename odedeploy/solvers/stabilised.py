"""Stabilised Runge–Kutta methods: s stages whose stability interval grows with s².

For fields that are stiff with a real negative spectrum, such as diffusion. The stability polynomial
is a shifted Chebyshev polynomial (RKC) or Legendre polynomial (RKL), of order 1 or 2, and the
stages follow its three-term recurrence

    Y_j = (1 − μ_j − ν_j) Y_0 + μ_j Y_{j−1} + ν_j Y_{j−2} + μ̃_j h F_{j−1} + γ̃_j h F_0.

All coefficients are rational, so that they are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from typing import NamedTuple

from odedeploy.tableau import Tableau, Weights

RKC = "Verwer, Hundsdorfer, Sommeijer 1990, Numer. Math. 57, 157–178"
RKC2 = "Sommeijer, Shampine, Verwer 1998, J. Comput. Appl. Math. 88, 315–326"
RKL = "Meyer, Balsara, Aslam 2014, J. Comput. Phys. 257, 594–626"

MOST = 32
"""Most stages of a method; round-off inside a step grows with s²."""


class _Term(NamedTuple):
    """Coefficients of one stage's recurrence."""

    mu: Fraction
    nu: Fraction
    mu_slope: Fraction
    gamma_slope: Fraction = Fraction(0)


class Family(NamedTuple):
    """Methods by their number of stages: ``interval`` is how far the real stability interval
    [−β, 0] reaches.
    """

    order: int
    fewest: int
    source: str
    terms: Callable[[int], tuple[Fraction, Sequence[_Term]]]
    interval: Callable[[int], Fraction]


@cache
def method(family: str, stages: int) -> Tableau:
    """The method of ``stages`` stages, called ``<family>_<stages>``."""
    order, _, source, terms, _ = FAMILIES[family]
    first, rest = terms(stages)
    rows: list[Weights] = [(), (first,)]
    for j, term in enumerate(rest, start=2):
        row = [Fraction(0)] * j
        for coefficient, earlier in ((term.mu, rows[j - 1]), (term.nu, rows[j - 2])):
            for k, x in enumerate(earlier):
                row[k] += coefficient * x
        row[j - 1] += term.mu_slope
        row[0] += term.gamma_slope
        rows.append(tuple(row))
    return Tableau(f"{family}_{stages}", order, tuple(rows[:-1]), rows[-1], source)


def find(name: str) -> Tableau | None:
    """The method called ``name``; None when it is in no family or has an impossible number of
    stages.
    """
    family, _, stages = name.rpartition("_")
    if family not in FAMILIES or not stages.isdecimal():
        return None
    return method(family, int(stages)) if FAMILIES[family].fewest <= int(stages) <= MOST else None


def _chebyshev(s: int, x: Fraction) -> tuple[list[Fraction], list[Fraction], list[Fraction]]:
    """T_j, T'_j and T''_j at ``x`` for j = 0 … s."""
    one, zero = Fraction(1), Fraction(0)
    value, first, second = [one, x], [zero, one], [zero, zero]
    for _ in range(2, s + 1):
        second.append(4 * first[-1] + 2 * x * second[-1] - second[-2])
        first.append(2 * value[-1] + 2 * x * first[-1] - first[-2])
        value.append(2 * x * value[-1] - value[-2])
    return value, first, second


def _rkc1(s: int) -> tuple[Fraction, Sequence[_Term]]:
    w0 = _damped(s, RKC1_DAMPING)
    value, first, _ = _chebyshev(s, w0)
    w1, b = value[s] / first[s], [1 / x for x in value]
    return w1 / w0, [
        _Term(2 * w0 * b[j] / b[j - 1], -b[j] / b[j - 2], 2 * w1 * b[j] / b[j - 1])
        for j in range(2, s + 1)
    ]


def _rkc2(s: int) -> tuple[Fraction, Sequence[_Term]]:
    w0 = _damped(s, RKC2_DAMPING)
    value, first, second = _chebyshev(s, w0)
    w1 = first[s] / second[s]
    b = [second[j] / first[j] ** 2 for j in range(2, s + 1)]
    b = [b[0], b[0], *b]
    return b[1] * w1, [
        _Term(
            2 * w0 * b[j] / b[j - 1],
            -b[j] / b[j - 2],
            2 * w1 * b[j] / b[j - 1],
            -(1 - b[j - 1] * value[j - 1]) * 2 * w1 * b[j] / b[j - 1],
        )
        for j in range(2, s + 1)
    ]


def _rkl1(s: int) -> tuple[Fraction, Sequence[_Term]]:
    w1 = Fraction(2, s * s + s)
    return w1, [
        _Term(Fraction(2 * j - 1, j), Fraction(1 - j, j), Fraction(2 * j - 1, j) * w1)
        for j in range(2, s + 1)
    ]


def _rkl2(s: int) -> tuple[Fraction, Sequence[_Term]]:
    w1 = Fraction(4, s * s + s - 2)
    b = [Fraction(j * j + j - 2, 2 * j * (j + 1)) for j in range(2, s + 1)]
    b = [b[0], b[0], *b]
    terms = []
    for j in range(2, s + 1):
        mu = Fraction(2 * j - 1, j) * b[j] / b[j - 1]
        nu = Fraction(1 - j, j) * b[j] / b[j - 2]
        terms.append(_Term(mu, nu, mu * w1, -(1 - b[j - 1]) * mu * w1))
    return b[1] * w1, terms


RKC1_DAMPING = Fraction(1, 20)
RKC2_DAMPING = Fraction(2, 13)


def _damped(s: int, damping: Fraction) -> Fraction:
    return 1 + damping / s**2


def _rkc1_interval(s: int) -> Fraction:
    w0 = _damped(s, RKC1_DAMPING)
    value, first, _ = _chebyshev(s, w0)
    return (w0 + 1) * first[s] / value[s]


def _rkc2_interval(s: int) -> Fraction:
    w0 = _damped(s, RKC2_DAMPING)
    _, first, second = _chebyshev(s, w0)
    return (w0 + 1) * second[s] / first[s]


FAMILIES = {
    "rkc1": Family(1, 2, RKC, _rkc1, _rkc1_interval),
    "rkc2": Family(2, 2, RKC2, _rkc2, _rkc2_interval),
    "rkl1": Family(1, 2, RKL, _rkl1, lambda s: Fraction(s * s + s)),
    "rkl2": Family(2, 3, RKL, _rkl2, lambda s: Fraction(s * s + s - 2, 2)),
}
"""RKC reaches about 1.93 s² (order 1) and 0.65 s² (order 2) along the real axis, RKL s² + s and
(s² + s − 2)/2; s steps of Euler reach 2 s."""
