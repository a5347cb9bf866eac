"""Three disjoint sets of inputs, each a type of its own, so that none can stand in for another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from odedeploy import metrics
from odedeploy.errors import BadInput
from odedeploy.graph import Inputs
from odedeploy.reference import batch_size, take
from odedeploy.search.certificate import minimum_samples
from odedeploy.spec import ExportSpec

RANKING = 8
"""Fewest inputs left for ranking when certification takes its minimum."""

ENOUGH = 256
"""Inputs left for ranking when there are too few for the promise; certification takes the rest."""

SAMPLES = 1024
"""Inputs in use when nobody says how many; more where the promise needs more."""


@dataclass(frozen=True)
class Split:
    """Some of the inputs in use: ``rows`` are their places in ``Splits.inputs``, shape (n,)."""

    rows: np.ndarray
    inputs: Inputs

    def __len__(self) -> int:
        return len(self.rows)


class Fit(Split):
    """Inputs on which plans are found."""


class Validate(Split):
    """Inputs on which the plans found are ranked again."""


class Certify(Split):
    """Inputs that take no part in the choice; the certificate alone reads them."""


@dataclass(frozen=True)
class Splits:
    """All inputs in use, in one seeded order, and who may see which of them.

    References are solved once on ``inputs``; every split finds its rows in them.
    """

    inputs: Inputs
    fit: Fit
    validate: Validate
    certify: Certify
    static: frozenset[str]


def split(inputs: Inputs, spec: ExportSpec, static: frozenset[str] = frozenset()) -> Splits:
    """Permute the inputs by ``spec.seed``, use at most ``spec.samples`` and split them in three.

    Without ``spec.samples``, at most ``SAMPLES`` inputs or twice what certification needs.
    The first axis of every array is the batch; those named in ``static`` have none and stay whole
    in every split.

    Raises BadInput for fewer than three inputs, batch sizes that differ, an array without a batch
    axis that is not in ``static``, and NaN, named by input and row.
    """
    n = batch_size(inputs, static)
    _refuse_nan(inputs, static)
    if n < 3:
        raise BadInput(f"At least 3 inputs are needed, one a split, got {n}; give more.")
    coverage = metrics.of(spec).coverage
    limit = spec.samples or max(SAMPLES, 2 * minimum_samples(coverage, spec.confidence))
    order = np.random.default_rng(spec.seed).permutation(n)[:limit]
    used = take(inputs, order, static)
    fit, validate, certify = shares(len(order), coverage, spec.confidence)
    rows = np.split(np.arange(len(order)), [fit, fit + validate, fit + validate + certify])
    parts = [(part, take(used, part, static)) for part in rows[:3]]
    return Splits(used, Fit(*parts[0]), Validate(*parts[1]), Certify(*parts[2]), static)


def shares(n: int, coverage: float, confidence: float) -> tuple[int, int, int]:
    """How many of n ≥ 3 inputs go to fit, validate and certify.

    Half are for certification, which allows a few of them to miss the tolerance once there are
    many; more than half when the promise needs them and at least ``RANKING`` are left, or when it
    needs more than there are and ``ENOUGH`` are left. The rest goes to fit and validate, two to
    one.
    """
    needed = minimum_samples(coverage, confidence)
    certify = n - ENOUGH if needed > n - RANKING else needed
    certify = max(1, n // 2, certify)
    validate = max(1, (n - certify) // 3)
    return n - certify - validate, validate, certify


def _refuse_nan(inputs: Inputs, static: frozenset[str]) -> None:
    for name, array in inputs.items():
        if not np.issubdtype(array.dtype, np.inexact) or not np.isnan(array).any():
            continue
        row = np.argwhere(np.isnan(array))[0][:1]
        where = "" if name in static else f" in row {row[0]}"
        raise BadInput(f"Input {name!r} holds NaN{where}; remove or repair it.")
