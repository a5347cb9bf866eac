"""What a metric is, as a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Arrays = Mapping[str, np.ndarray]
"""Named arrays, batch first."""


class Answers(Protocol):
    """Outputs of a model and final states of its solves, batch first; an Outcome is one."""

    @property
    def outputs(self) -> Arrays: ...

    @property
    def states(self) -> Arrays: ...


Floors = Mapping[str, float]
"""Least denominators of relative errors, by name."""

Errors = Callable[[Answers, Answers, Floors], np.ndarray]
"""(found, reference, floors) → error of every input, shape (n,); infinite where it is broken."""


@dataclass(frozen=True)
class Margins:
    """The decisions between scores of shape (n, classes, …), by which fits measure errors.

    ``best`` (n, 1, …) is the class of each, and ``widths`` (n, classes, …) is how far a score may
    rise against that of ``best``; infinite for ``best`` itself and for classes tied with it.
    """

    best: np.ndarray
    widths: np.ndarray


@dataclass(frozen=True)
class Metric:
    """The error of an input, and what is promised of it.

    An input keeps the tolerance when its error is at most ``limit``, and at least ``coverage`` of
    the inputs shall. ``errors`` are computed with the ``floors`` of the reference on all inputs,
    so that an input's error does not depend on its companions. ``resolved`` are the errors by which
    two resolutions of the reference are compared, ``errors`` unless a metric is blind to some
    differences. Where ``counts`` is true, the tolerance bounds the share of inputs beyond
    ``limit``; where ``of_states`` is, errors read states. ``margins`` gives the decisions of one
    output of the reference, None for an output without any; fits measure relative errors where a
    metric has no decisions. ``keeps`` and ``misses`` say of inputs, in the plural, that they do.
    """

    name: str
    limit: float
    coverage: float
    errors: Errors
    resolved: Errors
    floors: Callable[[Answers], Floors]
    keeps: str
    misses: str
    counts: bool = False
    of_states: bool = False
    margins: Callable[[np.ndarray], Margins | None] = lambda reference: None


def broken(arrays: Arrays) -> np.ndarray:
    """Which inputs have an entry that is not finite, shape (n,)."""
    finite = [np.isfinite(a).reshape(len(a), -1).all(axis=1) for a in arrays.values()]
    found: np.ndarray = ~np.all(finite, axis=0)
    return found
