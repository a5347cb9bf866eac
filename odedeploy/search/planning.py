"""The cheapest plan that keeps the tolerance, and the proof that it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from odedeploy.graph import Evaluator, Site
from odedeploy.program import Plan
from odedeploy.reference import Progress, Reference, silent
from odedeploy.search.certificate import Certificate
from odedeploy.search.layout import Layout
from odedeploy.search.measure import Candidate
from odedeploy.search.sequence import Tested
from odedeploy.search.splits import Splits
from odedeploy.search.stages import Costs, Stages, deadline
from odedeploy.search.study import Study
from odedeploy.spec import ExportSpec


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
    costs: Costs | None = None,
) -> Search:
    """The cheapest plan whose error is certified to keep ``spec.tol`` by ``spec.metric``.

    ``reference`` is the solve of ``splits.inputs``. Plans are found on a part of fit, ranked on
    fit and validate, and tested on certify in the order fixed by the ranking, from the safest to
    the cheapest, stopping at the first failure; the last that passed is chosen. The error must
    keep 1 − ``SHARE`` of the metric's limit, the rest being the reference's own. With too few
    certification inputs for the coverage asked for, the coverage they support is certified.

    Below the cheapest classical plan, non-uniform grids and learned solvers are tried where the
    evaluator can differentiate and ``spec.solver`` is ``"auto"`` or ``"learned"``, and distilled
    plans where ``spec.distils``. When the budget
    is spent or the user interrupts, the search goes on to certify what it has. ``costs`` measures
    plans on the target and decides where fitted plans are in the race; without it evaluations do.

    Raises UnknownName for a solver outside the catalogue, and BadInput when ``spec.nfe``
    evaluations make no whole number of steps or there is no solve to choose a solver for.
    """
    study = Study(
        evaluator, Layout.even(sites), spec, splits, reference, progress, deadline(spec.budget)
    )
    asked = Stages(study, costs)
    ranked, sequence = asked.ranked()
    tested = asked.tested(sequence)
    passed = [t.candidate for t in tested if t.passed]
    if passed:
        best = passed[-1]
    else:
        best = tested[0].candidate if tested else min(ranked, key=lambda c: c.error)
    return Search(
        best,
        bool(passed),
        asked.promised(bool(passed), best, tested),
        tuple(sorted(ranked, key=lambda c: c.evaluations)),
        tuple(tested),
    )
