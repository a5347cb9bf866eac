"""The stages of a search: climb, improve, rank, order, test."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from odedeploy.errors import BadInput
from odedeploy.program import Plan
from odedeploy.search.certificate import promise, shortfall
from odedeploy.search.ladder import Ladder, shortlist
from odedeploy.search.measure import Candidate, certify
from odedeploy.search.sequence import OVERFIT, ROOM, Tested, order
from odedeploy.search.study import CLASSICAL, SAFE, OutOfTime, Rung, Study
from odedeploy.solvers import LADDER, STABILISED, find
from odedeploy.spec import RUNGS, ExportSpec

if TYPE_CHECKING:
    from odedeploy.frontends.evaluation import TorchEvaluator
    from odedeploy.search.improvement import Improvement

DEAR = 8
"""Evaluations of the safest plan over those of the cheapest, from which none safer is sought."""

FITTED = ("learned", "distilled")
"""Kinds of plans that a request may insist on."""

FEWEST = 2
"""Evaluations below which nothing is left to fit."""

EXAMINED = 8
"""Inputs on which stiffness is estimated."""

ALLOWANCE = 120.0
"""Seconds for fitted plans when the request sets no budget; distilled ones get three times that."""

Costs = Callable[[Sequence[Plan]], Sequence[float]]
"""What one input costs under each of several plans, measured in turns, in any one unit."""


class Stages:
    """One search, stage by stage; ``costs`` measures plans on the target."""

    def __init__(self, study: Study, costs: Costs | None) -> None:
        self.study, self.costs = study, costs
        solver = study.spec.solver
        methods = [find(name) for name in (_catalogue(study) if solver in RUNGS else (solver,))]
        self.ladder = Ladder(study.layout, methods, self._error, study.target, study.progress)

    def ranked(self) -> tuple[list[Candidate], list[Candidate]]:
        """All ranked plans, and those to put to the test, safest first."""
        study, nfe = self.study, self.study.spec.nfe
        if not study.layout.replanned:
            ranked = study.rank([self._kept()])
            return ranked, ranked
        if nfe is not None:
            ranked = study.rank(sorted(self.exactly(nfe), key=lambda rung: rung.error)[:3])
            return ranked, [min(ranked, key=lambda candidate: candidate.error)]
        ranked = study.rank(self._climbed())
        ranked += study.rank(self._improved(ranked))
        if study.spec.solver in FITTED:
            ranked = [c for c in ranked if c.kind == study.spec.solver] or ranked
            return ranked, self._ordered(ranked)
        sequence = self._ordered(ranked)
        safe = study.safe * study.target
        while not (sequence and (sequence[0].worst <= safe or _spans(sequence))):
            more = self._higher()
            if not more:
                break
            ranked += study.rank(more)
            sequence = self._ordered(ranked)
        return ranked, sequence

    def tested(self, sequence: Sequence[Candidate]) -> list[Tested]:
        """Fixed-sequence testing: certificates up to and including the first failure."""
        study, tested = self.study, list[Tested]()
        excess = np.inf if study.metric.counts else OVERFIT  # margins have no typical largest error
        for done, candidate in enumerate(sequence, start=1):
            certificate = certify(
                study.evaluator,
                candidate.plan,
                study.splits.certify,
                study.reference,
                study.target,
                study.metric.coverage,
                study.spec.confidence,
            )
            tested.append(Tested(candidate, certificate, excess))
            study.progress("certify", done, len(sequence) if tested[-1].passed else done)
            if not tested[-1].passed:
                break
        return tested

    def promised(self, certified: bool, best: Candidate, tested: Sequence[Tested]) -> str:
        study = self.study
        if certified:
            return promise(study.metric, len(study.splits.certify), study.spec.confidence)
        if not tested:
            reached = (
                f"reaches an error of {best.error:.3g} on the ranking inputs, above "
                f"{study.target:g}, which is the tolerance less the share of the reference"
            )
        elif tested[0].certificate.passed:
            reached = (
                f"has an error of {tested[0].certificate.max:.3g} on the certification inputs and "
                f"of {best.worst:.3g} on those it was fitted to and chosen by: it is over-fitted"
            )
        else:
            reached = shortfall(study.metric, tested[0].certificate)
        return (
            f"Nothing is promised: the best plan ({best.solver}, {best.evaluations} evaluations) "
            f"{reached}."
        )

    def _climbed(self) -> list[Rung]:
        """The classical plans worth measuring on all inputs."""
        with self.study.screening():
            try:
                self.ladder.climb()
                self.ladder.rebalance(self.study.drift)
            except (OutOfTime, KeyboardInterrupt):
                if not self.ladder.rungs:
                    raise
        return shortlist(self.ladder.rungs, self.study.target)

    def _higher(self) -> list[Rung]:
        """Safer classical plans than any so far, while there is time."""
        try:
            return self.ladder.higher()
        except (OutOfTime, KeyboardInterrupt):
            return []

    def _improved(self, ranked: Sequence[Candidate]) -> list[Rung]:
        """Grids and learned solvers below the cheapest of the plans that keep the target."""
        passing = [c for c in ranked if c.error <= self.study.target]
        if not passing or not self._improves:
            return []
        safe = [c for c in passing if c.worst <= self._room * self.study.target]
        cheapest = min(safe or passing, key=lambda c: c.evaluations)
        if cheapest.evaluations <= max(self.ladder.layout.least, FEWEST):
            return []
        asked = self.study.deadline
        with self.study.screening():
            improvement = self._improvement(cheapest.plan)
            with suppress(OutOfTime, KeyboardInterrupt):
                improvement.walk(cheapest.evaluations)
        self.study.deadline = asked
        return shortlist(improvement.rungs, self.study.target)

    @property
    def _room(self) -> float:
        return ROOM * self.study.safe / SAFE

    @property
    def _improves(self) -> bool:
        """Whether plans are to be fitted; raises BadInput when they are and cannot be."""
        solver = self.study.spec.solver
        if solver not in ("auto", *FITTED) or self.study.spec.form != "unrolled":
            return False
        able = hasattr(self.study.evaluator, "differentiable")
        if solver in FITTED and not able:
            raise BadInput(
                f"--solver {solver} fits a solver to the gradients of the PyTorch model, which a "
                "file lacks; export the model itself, or choose classical."
            )
        if solver == "distilled" and not self.study.layout.constants:
            raise BadInput(
                "--solver distilled fits the biases of the vector field, and this one reads none "
                "that bear a name; choose learned."
            )
        return able

    def _improvement(self, start: Plan) -> Improvement:
        from odedeploy.search.improvement import Improvement

        if self.study.spec.budget is None:
            self.study.deadline = deadline(ALLOWANCE * (3 if self.study.spec.distils else 1))
        evaluator = cast("TorchEvaluator", self.study.evaluator)
        return Improvement(self.study, self.ladder, evaluator, start)

    def _ordered(self, ranked: Sequence[Candidate]) -> list[Candidate]:
        """``order`` by evaluations, and by measured cost where evaluations do not decide."""
        front = order(ranked, self.study.target, self.study.safe)
        if self.costs is None or all(c.kind == CLASSICAL for c in front):
            return front
        costs = self.costs([c.plan for c in front])
        priced = [replace(c, cost=x) for c, x in zip(front, costs, strict=True)]
        return order(priced, self.study.target, self.study.safe)

    def _error(self, plan: Plan) -> float:
        if any(np.isfinite(rung.error) for rung in self.ladder.rungs):
            self.study.check_time()
        return self.study.error(plan)

    def _kept(self) -> Rung:
        """The plan of a model whose every solve is a fixed-step call."""
        spec, sites = self.study.spec, self.study.layout.sites
        plan = Plan(tuple(site.kept for site in sites if site.kept is not None))
        if spec.solver not in ("auto", CLASSICAL) or spec.nfe not in (None, plan.evaluations):
            raise BadInput(
                "Every solve of this model is a fixed-step call and kept exactly, so there is no "
                f"solver to choose ({_asked(spec)}); drop the request, or add --replan."
            )
        solvers = dict.fromkeys(solve.solver for solve in plan.solves)
        return Rung(", ".join(solvers) or "none", plan, plan.evaluations, 0.0)

    def exactly(self, asked: int) -> list[Rung]:
        """Every method at exactly ``asked`` evaluations, and what improves on them."""
        with self.study.screening():
            rungs = self.ladder.exactly(asked)
            if not rungs:
                near = " or ".join(map(str, self.ladder.nearest(asked)))
                raise BadInput(
                    f"No plan has exactly {asked} evaluations ({_asked(self.study.spec)}); the "
                    f"nearest possible is {near}."
                )
            if not self._improves or asked <= FEWEST:
                return rungs
            improvement = self._improvement(min(rungs, key=lambda rung: rung.error).plan)
            with suppress(OutOfTime, KeyboardInterrupt):
                improvement.exactly(asked)
        solver = self.study.spec.solver
        fitted = [rung for rung in improvement.rungs if rung.kind == solver]
        if solver in FITTED and fitted:
            return fitted
        return [*rungs, *improvement.rungs]


def _catalogue(study: Study) -> tuple[str, ...]:
    """The solvers to try: the stabilised ones, too, where a solve is stiff."""
    if not (study.layout.replanned and hasattr(study.evaluator, "observe")):
        return LADDER
    from odedeploy.search.stiffness import stiffness

    few = study.few(study.splits.fit, EXAMINED).inputs
    found = stiffness(cast("TorchEvaluator", study.evaluator), study.layout.sites, few)
    free = [found[site.name] for site in study.layout.replanned if site.name in found]
    return (*LADDER, *STABILISED) if any(each.stiff for each in free) else LADDER


def deadline(seconds: float | None) -> float:
    return time.monotonic() + (np.inf if seconds is None else seconds)


def _spans(sequence: Sequence[Candidate]) -> bool:
    """Whether the safest plan is dear enough to fall back on, safe as it may be."""
    return sequence[0].evaluations >= DEAR * sequence[-1].evaluations


def _asked(spec: ExportSpec) -> str:
    nfe = [] if spec.nfe is None else [f"--nfe {spec.nfe}"]
    return " ".join([f"--solver {spec.solver}", *nfe])
