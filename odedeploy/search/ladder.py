"""The classical ladder: the catalogue's methods at ever more evaluations, on a few inputs.

Only small numbers of evaluations tell methods apart, where error constants of the asymptotic
regime mislead, so every error is measured. Totals double until one method reaches the target;
between the last two totals every remaining method is then walked down in small steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from odedeploy.program import Plan
from odedeploy.reference import Progress
from odedeploy.search.layout import Layout
from odedeploy.search.study import Rung
from odedeploy.tableau import Method

Errors = Callable[[Plan], float]
"""The error of a plan on the screening inputs."""

Drift = Callable[[Plan, Plan], float]
"""How far apart the outputs of two plans are on the screening inputs."""

SLACK = 1.5
"""A plan stays in the race up to this multiple of the target: a few inputs measure roughly."""

RESOLUTION = 16
"""Steps between a total and its double; up to this many evaluations every total is tried."""

LEVELS = 4
"""Fewest costs at which plans that keep the target are measured on all inputs, if there are any."""


class Ladder:
    """Climbs and keeps what it measured; ``rungs`` are all measured plans.

    Two methods that write the same program count once, under the name that comes first.
    """

    def __init__(
        self,
        layout: Layout,
        methods: Sequence[Method],
        error: Errors,
        target: float,
        progress: Progress,
    ) -> None:
        self.layout, self.methods, self.target = layout, tuple(methods), target
        self._error, self._progress = error, progress
        self._measured: dict[tuple[object, ...], Rung] = {}
        self._totals = _doubling(layout.least, layout.most, layout.kept_evaluations)
        self._next = 0

    @property
    def rungs(self) -> list[Rung]:
        return list(self._measured.values())

    def climb(self) -> None:
        """Double the total until the target is met or the budget is spent, then look closely."""
        alive: Sequence[Method] = self.methods
        before: dict[str, float] = {}
        while self._next < len(self._totals):
            alive, errors = self._stage(alive, before)
            near = [m for m in self.methods if errors.get(m.name, np.inf) <= SLACK * self.target]
            if min(errors.values(), default=np.inf) <= self.target:
                self._descend(near, self._totals[self._next - 1])
                break
            before = errors

    def rebalance(self, drift: Drift) -> None:
        """Share evaluations by how much each solve needs them, and climb again.

        At the first total that met the target, halving solve s moves the outputs by Δ_s ∝ C_s,
        where the solve's error is C_s·n_s^(−p); Σ C_s·n_s^(−p) is smallest for a given Σ n_s at
        n_s ∝ C_s^(1/(p + 1)).
        """
        rungs = [rung for rung in self.rungs if np.isfinite(rung.error)]
        if len(self.layout.replanned) < 2 or not rungs:
            return
        passing = [rung for rung in rungs if rung.error <= self.target]
        base = min(passing, key=_cost) if passing else min(rungs, key=_error)
        method = next(method for method in self.methods if method.name == base.solver)
        moved = {
            site.name: drift(self.layout.halved(method, base.plan, site.name), base.plan)
            for site in self.layout.replanned
        }
        largest = max(moved.values())
        if not 0 < largest < np.inf:
            return
        power = 1 / (method.order + 1)
        weights = tuple(
            max(moved.get(site.name, 0.0) / largest, 1e-6) ** power for site in self.layout.sites
        )
        self.layout, self._next = replace(self.layout, weights=weights), 0
        self.climb()

    def exactly(self, total: int) -> list[Rung]:
        """Every method at exactly ``total`` evaluations, those that have such a plan."""
        plans = ((method, self._exact(method, total)) for method in self.methods)
        found = [self._note(method, plan) for method, plan in plans if plan]
        return list({id(rung.plan): rung for rung in found}.values())

    def nearest(self, total: int) -> list[int]:
        """The possible numbers of evaluations that are closest to ``total``."""
        distance = 1
        while True:
            near = (total - distance, total + distance)
            found = [n for n in near if any(self._exact(m, n) for m in self.methods)]
            if found:
                return found
            distance += 1

    def _exact(self, method: Method, total: int) -> Plan | None:
        plan = self.layout.plan(method, total, budget=max(1, total))
        return plan if plan and plan.evaluations == total else None

    def higher(self, count: int = 2) -> list[Rung]:
        """Measure the ``count`` best methods up to the next total; empty above the budget."""
        if self._next >= len(self._totals):
            return []
        below, total = self._totals[self._next - 1], self._totals[self._next]
        self._next += 1
        best = self._best(below)[:count]
        upper = sorted({below + (total - below) * quarter // 4 for quarter in (1, 2, 3, 4)})
        return self._measure_all((method, each) for each in upper for method in best)

    def _stage(
        self, alive: Sequence[Method], before: dict[str, float]
    ) -> tuple[Sequence[Method], dict[str, float]]:
        """Errors of the methods alive at the next total, and those that stay alive."""
        total = self._totals[self._next]
        self._next += 1
        self._progress("screen", self._next, len(self._totals) + 1)
        rungs = self._measure_all((method, total) for method in alive)
        errors = {rung.solver: rung.error for rung in rungs}
        hopeless = [m for m in alive if _beaten(m, alive, errors) and _beaten(m, alive, before)]
        return [method for method in alive if method not in hopeless], errors

    def _descend(self, methods: Sequence[Method], total: int) -> None:
        """Small steps down from ``total``, each method until two plans in a row are hopeless; then
        above it, where the safe plans are, the best methods at a few totals.
        """
        kept = self.layout.kept_evaluations
        own = total - kept
        stride = max(1, own // RESOLUTION)
        for method in methods:
            failed: set[int] = set()
            for lower in range(own, own // 2, -stride):
                rung = self._measure(method, kept + lower)
                if rung is not None and rung.error <= SLACK * self.target:
                    failed.clear()
                elif rung is not None:
                    failed.add(rung.evaluations)
                if rung is None or len(failed) == 2:
                    break
        best = self._best(total)[:3]
        upper = [kept + own * quarter // 4 for quarter in (5, 6, 7, 8)]
        self._measure_all((m, u) for m in best for u in upper if u <= self.layout.most)
        self._progress("screen", len(self._totals) + 1, len(self._totals) + 1)

    def _best(self, total: int) -> list[Method]:
        """Methods by their error at up to ``total`` evaluations and more than half of them."""
        kept = self.layout.kept_evaluations
        errors = dict[str, float]()
        for rung in self.rungs:
            if (total - kept) // 2 < rung.evaluations - kept <= total - kept:
                errors[rung.solver] = min(rung.error, errors.get(rung.solver, np.inf))
        known = [method for method in self.methods if method.name in errors]
        return sorted(known, key=lambda method: errors[method.name])

    def _measure_all(self, points: Iterable[tuple[Method, int]]) -> list[Rung]:
        found = (self._measure(method, total) for method, total in points)
        return [rung for rung in found if rung is not None]

    def _measure(self, method: Method, total: int) -> Rung | None:
        plan = self.layout.plan(method, total)
        return None if plan is None else self._note(method, plan)

    def _note(self, method: Method, plan: Plan) -> Rung:
        key = tuple(solve.program for solve in plan.solves)
        if key not in self._measured:
            self._measured[key] = Rung(method.name, plan, plan.evaluations, self._error(plan))
        return replace(self._measured[key], solver=method.name)


def shortlist(rungs: Sequence[Rung], target: float) -> list[Rung]:
    """The rungs worth measuring on all inputs, cheapest first.

    The Pareto front of evaluations and error, beside each of its plans the runner-up of the same
    cost. It starts at the first plan within ``SLACK`` of the target and ends at the first with a
    quarter of it, though not before ``LEVELS`` plans keep the target, so that there is a next
    safer plan to fall back on. When nothing comes near the target, the three smallest errors.
    """
    near = [rung for rung in rungs if rung.error <= SLACK * target]
    if not near:
        return sorted(sorted(rungs, key=_error)[:3], key=_cost)
    chosen: list[Rung] = []
    lowest, levels = np.inf, 0
    for evaluations in sorted({rung.evaluations for rung in near}):
        level = sorted((r for r in near if r.evaluations == evaluations), key=_error)
        if level[0].error < lowest:
            lowest = level[0].error
            levels += lowest <= target
            chosen += [rung for rung in level[:2] if rung.error <= SLACK * lowest]
        if lowest <= target / 4 and levels >= LEVELS:
            break
    return chosen


def _doubling(least: int, most: int, kept: int) -> list[int]:
    """Totals from ``least``, the evaluations beyond the kept ones doubling, the last ``most``."""
    totals, own = [], least - kept
    while own and kept + own < most:
        totals.append(kept + own)
        own *= 2
    return [*totals, most]


def _beaten(method: Method, rivals: Sequence[Method], errors: dict[str, float]) -> bool:
    """Whether a method of at least the same order has less than a quarter of the error."""
    own = errors.get(method.name)
    return own is not None and any(
        rival.order >= method.order and errors.get(rival.name, np.inf) < own / 4 for rival in rivals
    )


def _cost(rung: Rung) -> int:
    return rung.evaluations


def _error(rung: Rung) -> float:
    return rung.error
