"""The cheapest plan that keeps the tolerance, and the proof that it does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from odedeploy import metrics
from odedeploy.errors import BadInput
from odedeploy.graph import Evaluator, Site
from odedeploy.program import Plan
from odedeploy.reference import SHARE, Progress, Reference, silent, take
from odedeploy.search.certificate import Certificate, promise, shortfall
from odedeploy.search.ladder import Ladder, Rung, shortlist
from odedeploy.search.layout import Layout
from odedeploy.search.measure import Candidate, certify, errors_of, quantile, rank
from odedeploy.search.splits import Fit, Splits
from odedeploy.solvers import LADDER, find
from odedeploy.spec import ExportSpec
from odedeploy.tableau import Method

SCREEN = 64
"""Fewest inputs of fit on which the ladder is climbed."""

BEYOND = 0.64
"""Inputs among them that may miss the tolerance, on average, for a promise of high coverage."""

SAFE = 0.5
"""Share of the target below which the first plan to be tested keeps all errors."""

RARE = 0.1
"""The same where the rate of rare violations is bounded, for as many inputs to certify as to rank.
Margins have a density at zero, so that the largest of n errors grows like n, and is ten times
larger than that with a probability of about a tenth."""

SEQUENCE = 8
"""Most plans that are put to the test of certification."""


@dataclass(frozen=True)
class Tested:
    """A plan put to the test and how it did."""

    candidate: Candidate
    certificate: Certificate


@dataclass(frozen=True)
class Search:
    """What was found.

    ``best`` is the cheapest certified plan; when none is, the plan that came closest.
    ``candidates`` are all plans ranked on all of fit and validate, cheapest first, and
    ``sequence`` those put to the test, safest first, up to the first failure. ``promise`` says in
    one sentence what is promised.
    """

    best: Candidate
    certified: bool
    promise: str
    candidates: tuple[Candidate, ...]
    sequence: tuple[Tested, ...]

    @property
    def plan(self) -> Plan:
        """The plan of ``best``."""
        return self.best.plan

    @property
    def certificate(self) -> Certificate | None:
        """The certificate of ``best``; None when it was never put to the test."""
        for tested in self.sequence:
            if tested.candidate is self.best:
                return tested.certificate
        return None


def search(
    evaluator: Evaluator,
    sites: Sequence[Site],
    spec: ExportSpec,
    splits: Splits,
    reference: Reference,
    progress: Progress = silent,
) -> Search:
    """The cheapest plan whose error is certified to keep ``spec.tol`` by ``spec.metric``.

    ``reference`` is the solve of ``splits.inputs``. Plans are found on a part of fit, ranked on
    fit and validate, and tested on certify in the order fixed by the ranking, from the safest to
    the cheapest, stopping at the first failure; the last that passed is chosen. The error must
    keep 1 − ``SHARE`` of the metric's limit, the rest being the reference's own. With too few
    certification inputs for the coverage asked for, the coverage they support is certified.

    Raises UnknownName for a solver outside the catalogue, and BadInput when ``spec.nfe``
    evaluations make no whole number of steps or there is no solve to choose a solver for.
    """
    context = _Context(evaluator, tuple(sites), spec, splits, reference, progress)
    ranked, sequence = context.ranked()
    tested = context.tested(sequence)
    passed = [t.candidate for t in tested if t.certificate.passed]
    if passed:
        best = passed[-1]
    else:
        best = tested[0].candidate if tested else min(ranked, key=lambda c: c.error)
    return Search(
        best,
        bool(passed),
        context.promised(bool(passed), best, tested),
        tuple(sorted(ranked, key=lambda c: c.evaluations)),
        tuple(tested),
    )


class _Context:
    """One search: what is given, and its stages."""

    def __init__(
        self,
        evaluator: Evaluator,
        sites: tuple[Site, ...],
        spec: ExportSpec,
        splits: Splits,
        reference: Reference,
        progress: Progress,
    ) -> None:
        self.evaluator, self.spec, self.splits = evaluator, spec, splits
        self.metric = metrics.of(spec)
        self.reference, self.progress = replace(reference, metric=self.metric), progress
        self.layout = Layout.even(sites)
        self.methods = [find(n) for n in (LADDER if spec.solver == "auto" else (spec.solver,))]
        self.target = (1 - SHARE) * self.metric.limit
        self.safe = SAFE
        if self.metric.counts:
            ranking = len(splits.fit) + len(splits.validate)
            self.safe = RARE * min(1.0, ranking / len(splits.certify))
        rows = np.arange(min(_screen(self.metric.coverage), len(splits.fit)))
        self.screen = Fit(splits.fit.rows[rows], take(splits.fit.inputs, rows, splits.static))

    def ranked(self) -> tuple[list[Candidate], list[Candidate]]:
        """All ranked plans, and those to put to the test, safest first."""
        if not self.layout.replanned:
            ranked = self._rank([self._kept()])
            return ranked, ranked
        if self.spec.nfe is not None:
            ranked = self._rank(sorted(self._exact(), key=lambda rung: rung.error)[:3])
            best = min(ranked, key=lambda candidate: candidate.error)
            return ranked, [best]
        ladder = Ladder(self.layout, self.methods, self._error, self.target, self.progress)
        ladder.climb()
        ladder.rebalance(self._drift)
        ranked = self._rank(shortlist(ladder.rungs, self.target))
        sequence = order(ranked, self.target, self.safe)
        while not sequence or sequence[0].worst > self.safe * self.target:
            more = ladder.higher()
            if not more:
                break
            ranked += self._rank(more)
            sequence = order(ranked, self.target, self.safe)
        return ranked, sequence

    def tested(self, sequence: Sequence[Candidate]) -> list[Tested]:
        """Fixed-sequence testing: certificates up to and including the first failure."""
        tested: list[Tested] = []
        for done, candidate in enumerate(sequence, start=1):
            certificate = certify(
                self.evaluator,
                candidate.plan,
                self.splits.certify,
                self.reference,
                self.target,
                self.metric.coverage,
                self.spec.confidence,
            )
            tested.append(Tested(candidate, certificate))
            self.progress("certify", done, len(sequence) if certificate.passed else done)
            if not certificate.passed:
                break
        return tested

    def promised(self, certified: bool, best: Candidate, tested: Sequence[Tested]) -> str:
        if certified:
            return promise(self.metric, len(self.splits.certify), self.spec.confidence)
        reached = (
            shortfall(self.metric, tested[0].certificate)
            if tested
            else f"reaches an error of {best.error:.3g} on the ranking inputs, above "
            f"{self.target:g}, which is the tolerance less the share of the reference"
        )
        return (
            f"Nothing is promised: the best plan ({best.solver}, {best.evaluations} evaluations) "
            f"{reached}."
        )

    def _rank(self, rungs: Sequence[Rung]) -> list[Candidate]:
        candidates = []
        for done, rung in enumerate(rungs, start=1):
            candidates.append(
                rank(
                    self.evaluator,
                    rung.plan,
                    rung.solver,
                    self.splits.fit,
                    self.splits.validate,
                    self.reference,
                    self.metric.coverage,
                )
            )
            self.progress("rank", done, len(rungs))
        return candidates

    def _error(self, plan: Plan) -> float:
        errors = errors_of(self.evaluator, plan, self.screen, self.reference)
        return quantile(errors, self.metric.coverage)

    def _drift(self, plan: Plan, base: Plan) -> float:
        moved, kept = (
            self.evaluator.run(p, self.screen.inputs, "float32") for p in (plan, base)
        )
        errors = self.metric.errors(moved, kept, self.reference.floors)
        return quantile(errors, self.metric.coverage)

    def _kept(self) -> Rung:
        """The plan of a model whose every solve is a fixed-step call."""
        plan = Plan(tuple(site.kept for site in self.layout.sites if site.kept is not None))
        if self.spec.solver != "auto" or self.spec.nfe not in (None, plan.evaluations):
            raise BadInput(
                "Every solve of this model is a fixed-step call and kept exactly, so there is no "
                f"solver to choose ({_asked(self.spec)}); drop the request, or add --replan."
            )
        solvers = dict.fromkeys(solve.solver for solve in plan.solves)
        return Rung(", ".join(solvers) or "none", plan, plan.evaluations, 0.0)

    def _exact(self) -> list[Rung]:
        """Every method at exactly ``spec.nfe`` evaluations."""
        asked = self.spec.nfe or 0
        plans = [(method, self._plan_of(method, asked)) for method in self.methods]
        rungs = [
            Rung(method.name, plan, asked, self._error(plan)) for method, plan in plans if plan
        ]
        if not rungs:
            near = " or ".join(map(str, self._nearest(asked)))
            raise BadInput(
                f"No plan has exactly {asked} evaluations ({_asked(self.spec)}); the nearest "
                f"possible is {near}."
            )
        return rungs

    def _nearest(self, asked: int) -> list[int]:
        """The possible numbers of evaluations that are closest to ``asked``."""
        distance = 1
        while True:
            found = [n for n in (asked - distance, asked + distance) if self._possible(n)]
            if found:
                return found
            distance += 1

    def _possible(self, evaluations: int) -> bool:
        return any(self._plan_of(method, evaluations) for method in self.methods)

    def _plan_of(self, method: Method, evaluations: int) -> Plan | None:
        plan = self.layout.plan(method, evaluations, budget=max(1, evaluations))
        return plan if plan and plan.evaluations == evaluations else None


def order(
    candidates: Iterable[Candidate], target: float, safe: float = SAFE
) -> list[Candidate]:
    """The plans to put to the test, from the safest to the cheapest.

    The Pareto front of evaluations and error among those that keep the target; of more than
    ``SEQUENCE`` the cheapest ones, and before them the first that is comfortably ``safe``, or the
    safest. Every next plan has strictly fewer evaluations.
    """
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.evaluations, c.error)):
        if candidate.error > target or (front and candidate.error >= front[-1].error):
            continue
        front.append(candidate)
    cheap, rest = front[: SEQUENCE - 1], front[SEQUENCE - 1 :]
    if rest:
        cheap.append(next((c for c in rest if c.worst <= safe * target), rest[-1]))
    return cheap[::-1]


def _screen(coverage: float) -> int:
    return max(SCREEN, round(BEYOND / (1 - coverage)))


def _asked(spec: ExportSpec) -> str:
    nfe = [] if spec.nfe is None else [f"--nfe {spec.nfe}"]
    return " ".join([f"--solver {spec.solver}", *nfe])
