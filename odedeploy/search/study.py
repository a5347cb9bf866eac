"""What every rung of a search works with: the question, the inputs, the clock and the measure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from odedeploy import metrics
from odedeploy.graph import Evaluator, Outcome
from odedeploy.metrics import Metric
from odedeploy.program import Plan
from odedeploy.reference import SHARE, Progress, Reference, take
from odedeploy.search.layout import Layout
from odedeploy.search.measure import Candidate, errors_of, quantile, rank
from odedeploy.search.splits import Fit, Split, Splits
from odedeploy.spec import ExportSpec

SCREEN = 64
"""Fewest inputs of fit on which plans are first measured."""

BEYOND = 0.64
"""Inputs among them that may miss the tolerance, on average, for a promise of high coverage."""

SAFE = 0.5
"""Share of the target below which the first plan to be tested keeps all errors."""

FEW = 64
"""Ranking inputs below which ``SAFE`` shrinks: the largest error of a few tells little of others.
"""

RARE = 0.1
"""``SAFE`` where the rate of rare violations is bounded, for as many inputs to certify as to rank.
Margins have a density at zero, so that the largest of n errors grows like n, and is ten times
larger than that with a probability of about a tenth."""

CLASSICAL = "classical"

Run = Callable[[Plan], Outcome]


class OutOfTime(Exception):
    """The budget of a search is spent; what was found so far stands."""


@dataclass(frozen=True)
class Rung:
    """One plan and its error on the screening inputs.

    ``kind`` is how it was found: ``"classical"``, ``"grid"``, ``"learned"`` or ``"distilled"``.
    """

    solver: str
    plan: Plan
    evaluations: int
    error: float
    kind: str = CLASSICAL


@dataclass
class Study:
    """One search: the question and what answers are measured by.

    ``deadline`` is a time of ``time.monotonic``. ``layout`` says how evaluations are shared among
    the solves.
    """

    evaluator: Evaluator
    layout: Layout
    spec: ExportSpec
    splits: Splits
    reference: Reference
    progress: Progress
    deadline: float = np.inf
    _screened: Run | None = None
    _ranked: dict[Plan, Candidate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reference = replace(self.reference, metric=self.metric)

    @cached_property
    def metric(self) -> Metric:
        """What errors are taken by."""
        return metrics.of(self.spec)

    @property
    def target(self) -> float:
        """What an error must keep: the metric's limit less the share of the reference."""
        return (1 - SHARE) * self.metric.limit

    @property
    def safe(self) -> float:
        """Share of the target below which the first plan to be tested keeps all errors."""
        ranking = len(self.splits.fit) + len(self.splits.validate)
        if not self.metric.counts:
            return SAFE * math.sqrt(min(1.0, ranking / FEW))
        return RARE * min(1.0, ranking / len(self.splits.certify))

    @cached_property
    def screen(self) -> Fit:
        """The inputs of fit on which plans are first measured."""
        rare = round(BEYOND / (1 - self.metric.coverage))
        few = self.few(self.splits.fit, max(SCREEN, rare))
        return Fit(few.rows, few.inputs)

    def few(self, split: Split, count: int) -> Split:
        """At most ``count`` inputs of ``split``."""
        return self._part(split, np.arange(min(count, len(split))))

    def hardest(self, split: Split, count: int, plan: Plan) -> Split:
        """At most ``count`` inputs of ``split``: half of them those with the largest errors under
        ``plan``, because a promise is about the largest errors, the others as they come.
        """
        if count >= len(split):
            return split
        errors = errors_of(self.evaluator, plan, split, self.reference)
        hard = np.argsort(-errors, kind="stable")[: count // 2]
        others = np.setdiff1d(np.arange(len(split)), hard)[: count - len(hard)]
        return self._part(split, np.sort(np.concatenate([hard, others])))

    def _part(self, split: Split, rows: np.ndarray) -> Split:
        return type(split)(split.rows[rows], take(split.inputs, rows, self.splits.static))

    def check_time(self) -> None:
        """Raises OutOfTime past the deadline."""
        if time.monotonic() > self.deadline:
            raise OutOfTime

    @contextmanager
    def screening(self) -> Iterator[None]:
        """Where many plans are run on the screening inputs, what comes before the first solve is
        computed once, if the evaluator knows how.
        """
        repeated = getattr(self.evaluator, "repeated", None)
        if repeated is None:
            yield
            return
        with repeated(self.screen.inputs) as run:
            self._screened = run
            try:
                yield
            finally:
                self._screened = None

    def error(self, plan: Plan) -> float:
        """The coverage quantile of the error of ``plan`` on the screening inputs."""
        errors = self.reference.errors(self._run(plan), self.screen.rows)
        return quantile(errors, self.metric.coverage)

    def drift(self, plan: Plan, base: Plan) -> float:
        """How far apart the outputs of two plans are on the screening inputs."""
        moved, kept = (self._run(p) for p in (plan, base))
        errors = self.metric.errors(moved, kept, self.reference.floors)
        return quantile(errors, self.metric.coverage)

    def rank(self, rungs: Sequence[Rung]) -> list[Candidate]:
        """The rungs scored on all of fit and validate."""
        candidates = []
        for done, rung in enumerate(rungs, start=1):
            candidates.append(self.scored(rung))
            self.progress("rank", done, len(rungs))
        return candidates

    def scored(self, rung: Rung) -> Candidate:
        """One rung scored on all of fit and validate; a plan is run once however often asked."""
        if rung.plan not in self._ranked:
            candidate = rank(
                self.evaluator,
                rung.plan,
                rung.solver,
                self.splits.fit,
                self.splits.validate,
                self.reference,
                self.metric.coverage,
            )
            self._ranked[rung.plan] = replace(candidate, kind=rung.kind)
        return self._ranked[rung.plan]

    def _run(self, plan: Plan) -> Outcome:
        if self._screened is not None:
            return self._screened(plan)
        return self.evaluator.run(plan, self.screen.inputs, "float32")
