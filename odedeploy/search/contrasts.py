"""Sum-zero combinations of slopes whose size tells the error of a plan, fitted by regression.

For one input with slopes u_j of a solve, the combinations e_k give the quadratic form
q = Σ_k ‖Σ_j e_kj u_j‖² = Σ_k e_kᵀ G e_k in the slopes' inner products G, so that G is all a fit has
to read. The rows e_k minimise the mean square of ½ log q − log error, q being summed over solves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import optimize

NOISE = 1e-2
"""Relative noise of the slopes against which the fit is hardened, so that it keeps to combinations
that float32 computes well."""

STARTS = 3
ITERATIONS = 200

Forms = Sequence[np.ndarray]
"""Inner products of the slopes of every input, one array (inputs, m, m) per solve."""

Rows = list[np.ndarray]
"""Combinations of the slopes, one array (m − 1, m) per solve."""


def contrasts(fit: tuple[Forms, np.ndarray], validate: tuple[Forms, np.ndarray], seed: int) -> Rows:
    """Rows (m − 1, m) of every solve, each of sum zero.

    ``fit`` and ``validate`` are forms and the logarithm of the error of every input, (inputs,).
    L-BFGS from ``STARTS`` seeded starts on the first; of all iterates the best on the second.
    """
    forms, logs = [_hardened(form) for form in fit[0]], fit[1]
    held, held_logs = [_hardened(form) for form in validate[0]], validate[1]
    shapes = [(form.shape[1] - 1, form.shape[1]) for form in forms]
    generator = np.random.default_rng(seed)
    best: tuple[float, Rows] | None = None

    def remember(vector: np.ndarray) -> None:
        nonlocal best
        rows = _rows(vector, shapes)
        loss = float(np.mean((0.5 * np.log(_square(rows, held)) - held_logs) ** 2))
        if best is None or loss < best[0]:
            best = loss, rows

    for _ in range(STARTS):
        start = generator.standard_normal(sum(k * m for k, m in shapes))
        start *= np.exp(np.mean(logs - 0.5 * np.log(_square(_rows(start, shapes), forms))))
        remember(start)
        optimize.minimize(
            _loss, start, (shapes, forms, logs), jac=True, method="L-BFGS-B", callback=remember,
            options={"maxiter": ITERATIONS},
        )  # fmt: skip
    assert best is not None
    return best[1]


def noise(rows: Rows, forms: Forms) -> np.ndarray:
    """The size of what slopes with ``NOISE`` of their own would give, shape (inputs,)."""
    squares = [np.einsum("ka,xaa->x", e**2, form) for e, form in zip(rows, forms, strict=True)]
    return np.asarray(NOISE * np.sqrt(np.sum(squares, axis=0)))


def _loss(
    vector: np.ndarray, shapes: Sequence[tuple[int, int]], forms: Forms, logs: np.ndarray
) -> tuple[float, np.ndarray]:
    """Mean square of ½ log q − log error, and its gradient."""
    rows = _rows(vector, shapes)
    square = _square(rows, forms)
    residual = 0.5 * np.log(square) - logs
    weights = 2 * residual / square / len(logs)
    slopes = [e @ np.einsum("x,xab->ab", weights, f) for e, f in zip(rows, forms, strict=True)]
    gradient = np.concatenate([(g - g.mean(1, keepdims=True)).ravel() for g in slopes])
    return float(np.mean(residual**2)), gradient


def _rows(vector: np.ndarray, shapes: Sequence[tuple[int, int]]) -> Rows:
    ends = np.cumsum([k * m for k, m in shapes])[:-1]
    free = [part.reshape(s) for part, s in zip(np.split(vector, ends), shapes, strict=True)]
    return [e - e.mean(1, keepdims=True) for e in free]


def _square(rows: Rows, forms: Forms) -> np.ndarray:
    squares = [
        np.einsum("ka,xab,kb->x", e, form, e, optimize=True)
        for e, form in zip(rows, forms, strict=True)
    ]
    return np.asarray(np.sum(squares, axis=0))


def _hardened(form: np.ndarray) -> np.ndarray:
    return np.asarray(form + NOISE**2 * form * np.eye(form.shape[1]))
