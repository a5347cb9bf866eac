"""Below the cheapest classical plan: grids and learned solvers, at ever fewer evaluations.

At a number of evaluations n the best classical plans are moved onto better grids, the best of all
has its steps moved by gradients, and its coefficients are then set free; least squares and the
solver learned for n − 1 evaluations are further places to start from. The next n follows from how
far the error is from the target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from odedeploy.frontends.evaluation import TorchEvaluator
from odedeploy.program import Plan
from odedeploy.search import distilled, gauss_newton, grids
from odedeploy.search.grids import Densities, Steps
from odedeploy.search.ladder import Ladder
from odedeploy.search.learned import NAME, Families, inserted
from odedeploy.search.leastsquares import least_squares
from odedeploy.search.objective import Judges, descend, judges
from odedeploy.search.study import OutOfTime, Rung, Study
from odedeploy.solvers import find

MOST = 24
"""Most evaluations of a learned solver; its coefficients grow as their square."""

FIRST = 0.6
"""Share of the evaluations of the cheapest classical plan at which learning starts."""

RATE = 1.7
"""Ratio of the errors of learned solvers with n and n + 1 evaluations, from which the next n is
guessed."""

HOPELESS = 10.0
"""Multiple of the least error that another start reached beyond which one is not followed up."""

SURE = 0.6
"""Share of the target below which the worst error of a learned plan counts as safe: the plan was
fitted to some of the inputs that it is measured on, and does worse on others."""

HANDICAP = 1.4
"""Factor by which a start from a better grid must lead to be preferred."""

UNDECIDED = 3.0
"""Factor between an error and what is asked beyond which a fit is not settled: it holds anyway, or
will not."""

STEPS, GRID_STEPS = 8, 4
"""Gauss–Newton steps of a learned solver and of a grid."""

TAILED = 4.0
"""Power of the mean that the last steps minimise, which leans towards the largest errors."""

CLOSURES = 12
"""Evaluations of the loss by L-BFGS in place of one such step."""

Write = Callable[[Sequence[Tensor]], Plan]
"""The plan of values in place of its parameters."""

ENTRIES = 250_000
"""Entries of all states of the inputs that a fit runs on, which bounds its time."""

ROWS = (64, 512)
"""Fewest and most inputs of a fit."""

DISTILLED_ROWS = 2048
"""The same of a distilled plan, evaluations of an input counted: it has more numbers to fit, and
all slopes are held at a time."""

DISTILLED_CLOSURES = 150
"""Evaluations of the loss for a distilled plan."""


class Improvement:
    """Walks the numbers of evaluations below ``ladder``'s; ``rungs`` are all plans it measured.

    Fits run on the inputs that are hardest for ``cheapest``, and as many others. A walk settles
    the fits whose error is near what is asked, ``exactly`` all of them.
    """

    def __init__(
        self, study: Study, ladder: Ladder, evaluator: TorchEvaluator, cheapest: Plan
    ) -> None:
        self.study, self.ladder, self.evaluator = study, ladder, evaluator
        self.sites = study.layout.sites
        self.rungs: list[Rung] = []
        self._learned: dict[int, Plan] = {}
        self._undecided = (0.0, math.inf)
        self._densities: dict[int, list[Densities]] = {}
        splits = study.splits
        rows = _rows(study)
        self._fit = study.hardest(splits.fit, rows, cheapest)
        self._validate = study.hardest(splits.validate, max(rows, 128), cheapest)

    def walk(self, cheapest: int) -> None:
        """Look for plans with fewer evaluations than ``cheapest``, which keeps the target.

        Ends with one evaluation more than the fewest that look safe, to fall back on.
        """
        least = self.ladder.layout.least
        target = self.study.target
        self._undecided = (SURE * target / UNDECIDED, UNDECIDED * target)
        with self._judged() as judged:
            errors: dict[int, float] = {}
            n = min(max(math.ceil(FIRST * cheapest), least), cheapest - 1, self._most)
            while least <= n < cheapest and n not in errors:
                self.study.progress("learn", len(errors) + 1, len(errors) + 2)
                errors[n] = self._at(n, judged)
                n = self._next(n, errors, cheapest)
            safer = 1 + min((k for k, e in errors.items() if self._safe(e)), default=cheapest)
            if safer not in errors and safer < min(cheapest, self._most + 1):
                errors[safer] = self._at(safer, judged)
            self.study.progress("learn", len(errors) + 1, len(errors) + 1)

    def exactly(self, n: int) -> None:
        """Grids and a learned solver with ``n`` evaluations."""
        if n <= self._most:
            with self._judged() as judged:
                self._at(n, judged)

    @property
    def _most(self) -> int:
        layout = self.ladder.layout
        return layout.kept_evaluations + MOST * len(layout.replanned)

    def _judged(self) -> AbstractContextManager[Judges]:
        return judges(
            self.evaluator,
            self._fit,
            self._validate,
            self.study.reference,
            self.study.metric.of_states,
        )

    def _safe(self, error: float) -> bool:
        return error <= SURE * self.study.target

    def _next(self, n: int, errors: dict[int, float], cheapest: int) -> int:
        """The n to look at next, within what is not known yet."""
        goal = SURE * self.study.target
        passed = [k for k, e in errors.items() if self._safe(e)]
        failed = [k for k, e in errors.items() if not self._safe(e)]
        upper, lower = min([*passed, cheapest]) - 1, max([*failed, 0]) + 1
        if lower > upper:
            return n
        distance = math.log(max(errors[n], 1e-300) / goal) / math.log(RATE)
        step = math.ceil(distance) if distance > 0 else -max(1, math.floor(-distance))
        return min(max(n + step, lower), upper, self._most)

    def _at(self, n: int, judged: Judges) -> float:
        """Measure what can be done with ``n`` evaluations; the worst error of the learned plan."""
        self.study.check_time()
        starts = [r.plan for r in sorted(self.ladder.exactly(n), key=lambda r: r.error)[:3]]
        starts = [plan for plan in starts if np.isfinite(judged.validate.tail(plan))]
        if not starts:
            return math.inf
        moved = [self._note(plan, "grid") for plan in self._moved(starts)]
        plans = starts + [rung.plan for rung in moved if np.isfinite(rung.error)]
        best = self._by_gradient(min(plans, key=judged.validate.tail), judged)
        return self._learn(n, min(starts, key=judged.validate.tail), best, judged)

    def _moved(self, starts: Sequence[Plan]) -> list[Plan]:
        """``starts`` on the grids that promise anything."""
        plans = []
        for start in starts:
            order = max(find(solve.solver).order for solve in start.solves
                        if self._free(solve.site))  # fmt: skip
            for densities in self._predicted(order):
                if max(d.gain for d in densities.values()) >= grids.GAIN:
                    plans.append(grids.moved(start, self.study.layout, densities))
        return plans

    def _predicted(self, order: int) -> list[Densities]:
        if order not in self._densities:
            inputs = self.study.screen.inputs
            even = grids.equidistributed(self.evaluator, self.sites, inputs, order)
            self._densities[order] = [even, *self._harvested()]
        return self._densities[order]

    def _harvested(self) -> list[Densities]:
        if self._densities:
            return next(iter(self._densities.values()))[1:]
        tol = min(max(self.study.target / 10, 1e-6), 1e-2)
        try:
            return [grids.harvested(self.evaluator, self.sites, self.study.screen.inputs, tol)]
        except (AssertionError, RuntimeError):  # torchdiffeq asserts that its steps stay large
            return []

    def _by_gradient(self, start: Plan, judged: Judges) -> Plan:
        """``start`` with its steps moved, where it has any to move."""
        steps = {s.site: Steps(s) for s in start.solves if self._free(s.site)}
        parameters = [p for s in steps.values() for p in s.parameters]
        if all(len(p) < 2 for p in parameters):
            return start

        def plan(values: Sequence[Tensor] = parameters) -> Plan:
            left = iter(values)
            return Plan(tuple(
                steps[s.site].solve_plan([next(left) for _ in steps[s.site].parameters])
                if s.site in steps else s
                for s in start.solves
            ))  # fmt: skip

        try:
            self._descended(parameters, plan, judged, 10 + len(parameters))
            self._settled(parameters, plan, judged, GRID_STEPS)
        finally:
            found = Plan(tuple(
                steps[s.site].frozen() if s.site in steps else s for s in start.solves
            ))  # fmt: skip
            self._note(found, "grid")
        return found

    def _learn(self, n: int, classical: Plan, moved: Plan, judged: Judges) -> float:
        """A learned plan with ``n`` evaluations, from the best of several starts; its worst error.

        A certificate allows few inputs or none to miss the tolerance, so the worst is what counts.
        """
        starts = [moved, *self._closed_form(moved)]
        if n - 1 in self._learned:
            starts.append(inserted(self._learned[n - 1], self.sites))
        # from a start that was optimised before, descents tend to end early and higher
        trials = [(classical, 1, 1.0), (classical, 2, 1.0)]
        trials.append((min(starts, key=judged.fit.tail), 1, HANDICAP))
        fitted: list[tuple[float, Families]] = []
        try:
            for plan, order, handicap in trials:
                families = Families(self.sites, plan, order)
                least = min((error for error, _ in fitted), default=math.inf)
                if not fitted or judged.validate.tail(families.frozen()) <= HOPELESS * least:
                    error = self._descended(
                        families.parameters, families.plan, judged, 10 + n, families.excess
                    )
                    fitted.append((handicap * error, families))
            families = min(fitted, key=lambda found: found[0])[1]
            numbers = (families.parameters, families.plan, judged)
            error = self._descended(*numbers, 20 + 2 * n, families.excess)
            if self._undecided[0] <= error <= self._undecided[1]:
                self._settled(*numbers, STEPS, 2.0, families.excess)
                self._settled(*numbers, STEPS // 2, TAILED, families.excess)
        except (OutOfTime, KeyboardInterrupt):
            if fitted:
                self._note(min(fitted, key=lambda found: found[0])[1].frozen(), NAME)
            raise
        self._learned[n] = families.frozen()
        found = [self._note(self._learned[n], NAME)]
        if self.study.spec.distils and self.study.layout.constants:
            plan = self._distilled(n, self._learned[n])
            found += [self._note(plan, distilled.NAME)] if plan is not self._learned[n] else []
        return min(self.study.scored(rung).worst for rung in found)

    def _distilled(self, n: int, start: Plan) -> Plan:
        """``start`` with biases of each evaluation's own."""
        study = self.study
        fit = study.few(study.splits.fit, max(ROWS[0], DISTILLED_ROWS // n))
        states = study.metric.of_states
        with judges(self.evaluator, fit, self._validate, study.reference, states) as judged:
            return distilled.distil(
                self.evaluator, self.sites, start, judged, DISTILLED_CLOSURES,
                spent=study.check_time,
            )  # fmt: skip

    def _descended(
        self,
        parameters: Sequence[Tensor],
        plan: Write,
        judged: Judges,
        closures: int,
        excess: Callable[[Sequence[Tensor]], Tensor] | None = None,
        power: float = 2.0,
    ) -> float:
        """By L-BFGS, which comes from far away; the tail error on validate."""

        def penalty() -> Tensor:
            return torch.zeros(()) if excess is None else excess(parameters).square().sum()

        spent = self.study.check_time
        return descend(
            parameters, lambda: plan(parameters), judged, closures, power, penalty, spent
        )

    def _settled(
        self,
        parameters: Sequence[Tensor],
        plan: Write,
        judged: Judges,
        steps: int,
        power: float = 2.0,
        excess: Callable[[Sequence[Tensor]], Tensor] | None = None,
    ) -> float:
        """By Gauss–Newton, which goes deeper, or for a model without forward derivatives by more
        of L-BFGS; the tail error on validate.
        """
        try:
            return gauss_newton.fit(
                parameters, plan, judged, steps, power, excess, self.study.check_time
            )
        except NotImplementedError:
            closures = CLOSURES * steps
            return self._descended(parameters, plan, judged, closures, excess, power)

    def _closed_form(self, start: Plan) -> list[Plan]:
        truth = grids.fine(self.sites)
        try:
            plan = least_squares(
                self.evaluator, self.sites, start, self.study.screen.inputs, truth
            )
        except (np.linalg.LinAlgError, RuntimeError):
            return []
        return [plan]

    def _note(self, plan: Plan, kind: str) -> Rung:
        solvers = dict.fromkeys(s.solver for s in plan.solves if self._free(s.site))
        rung = Rung(", ".join(solvers), plan, plan.evaluations, self.study.error(plan), kind)
        self.rungs.append(rung)
        return rung

    def _free(self, name: str) -> bool:
        return any(site.name == name and site.kept is None for site in self.sites)


def _rows(study: Study) -> int:
    """How many inputs a fit runs on."""
    entries = sum(a[:1].size for a in study.reference.outcome.states.values())
    fewest, most = ROWS
    return min(max(ENTRIES // max(entries, 1), fewest), most)
