"""``agreement``: the class of an input, and the share of its decision margin that is used up.

The tolerance bounds the share of inputs that change their class. Whether a class changed is a coin
toss's worth of information, so the error of an input is how much of the way to another class it
went: 0 when no score moved, 1 where the class changes. Plans can then be ranked on few inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from odedeploy.errors import BadInput
from odedeploy.metrics.records import Answers, Floors, Margins, Metric
from odedeploy.spec import ExportSpec
from odedeploy.tolerance import Tolerance

TIE: float = Tolerance.FLOAT32
"""Classes whose reference scores are this close, relative to the norm of all, are tied: float32
cannot tell them apart, so either of them is right."""

BELOW = float(np.nextafter(1.0, 0.0))
"""The largest error of an input that keeps its class."""

NEAR = 5e-4
"""Least decision margin, relative to the norm of the scores, that errors are measured by; below it
an input has an error of 1 or more only if its class changes. A reference that settles such a margin
to its share, 2 %, has resolved the scores to ``TIE``."""


SOFTENING = 0.1
"""Margin, relative to the norm of the scores, that a fit adds to every input's own. Inputs never
seen have their narrow margins where others have wide ones, so that all of them count, the narrow
ones most."""


def build(spec: ExportSpec) -> Metric:
    """The largest ``margin_used`` over the outputs that choose a class.

    Those are floating-point outputs of shape (batch, classes, …), 2 classes or more, and discrete
    outputs, whose entries are the classes themselves. Raises BadInput, when errors are computed,
    for a model without any.
    """
    return Metric(
        name="agreement",
        limit=1.0,
        coverage=1 - spec.tol,
        errors=partial(_errors, margin_used),
        resolved=partial(_errors, margin_moved),
        floors=lambda reference: {},
        keeps="keep their class",
        misses="change their class",
        counts=True,
        margins=margins,
    )


def _errors(
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray],
    found: Answers,
    reference: Answers,
    floors: Floors,
) -> np.ndarray:
    names = [name for name, array in reference.outputs.items() if _chooses(array)]
    if not names:
        shapes = {name: ("batch", *array.shape[1:]) for name, array in reference.outputs.items()}
        raise BadInput(
            "--metric agreement needs an output of shape (batch, classes, …) with 2 classes or "
            f"more, or one of whole numbers, and this model gives {shapes}; write a "
            "--metric module:function that decides."
        )
    errors = [measure(found.outputs[name], reference.outputs[name]) for name in names]
    worst: np.ndarray = np.max(errors, axis=0)
    return worst


def margin_used(out: np.ndarray, ref: np.ndarray) -> np.ndarray:
    """How far every input went towards another class, shape (n,): 0 unmoved, 1 or more changed.

    ``out`` and ``ref`` hold scores of shape (n, classes, …), the class axis as in PyTorch's
    cross-entropy. With c* the best class of the reference, it is the largest over other classes c
    of ((out_c − out_c*) − (ref_c − ref_c*)) / (ref_c* − ref_c), the worst over all positions.
    Among tied best classes the one with the largest ``out`` stands for all. Where ``out`` has
    another class as good as the best one, the class counts as changed. Discrete arrays give 0
    where all of an input's entries agree, else inf; so do scores that are not finite.
    """
    return _margins(out, ref, lambda moved: moved)


def margins(ref: np.ndarray) -> Margins | None:
    """The decisions of scores (n, classes, …), softened by ``SOFTENING``; None for other arrays."""
    if not (np.issubdtype(ref.dtype, np.inexact) and _chooses(ref)):
        return None
    truth = ref.astype(np.float64)
    norm = np.linalg.norm(truth, axis=1, keepdims=True)
    widths = truth.max(axis=1, keepdims=True) - truth
    softened = np.where(widths <= TIE * norm, np.inf, widths + SOFTENING * norm)
    return Margins(truth.argmax(axis=1, keepdims=True), softened)


def margin_moved(out: np.ndarray, ref: np.ndarray) -> np.ndarray:
    """``margin_used`` that counts moves away from other classes like those towards them."""
    return _margins(out, ref, np.abs)


def _margins(
    out: np.ndarray, ref: np.ndarray, count: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    if not np.issubdtype(ref.dtype, np.inexact):
        same = (out == ref).reshape(len(ref), -1).all(axis=1)
        return np.where(same, 0.0, np.inf)
    scores, truth = (np.moveaxis(a, 1, -1).astype(np.float64) for a in (out, ref))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        norm = np.linalg.norm(truth, axis=-1, keepdims=True)
        margin = truth.max(axis=-1, keepdims=True) - truth
        tied = margin <= TIE * norm
        lead = np.where(tied, scores, -np.inf).max(axis=-1, keepdims=True)
        used = count(scores - lead + margin) / np.maximum(margin, NEAR * norm)
        used = np.where(scores >= lead, np.maximum(used, 1.0), np.minimum(used, BELOW))
        used = np.where(tied, 0.0, used).reshape(len(ref), -1).max(axis=1)
    finite = [np.isfinite(a).reshape(len(a), -1).all(axis=1) for a in (scores, truth)]
    return np.where(np.all(finite, axis=0), np.maximum(used, 0.0), np.inf)


def _chooses(array: np.ndarray) -> bool:
    if not np.issubdtype(array.dtype, np.inexact):
        return True
    return array.ndim >= 2 and array.shape[1] >= 2
