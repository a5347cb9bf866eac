"""How a number of evaluations is shared among the solves of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from odedeploy.errors import BadInput
from odedeploy.graph import Site
from odedeploy.grid import Grid
from odedeploy.program import Plan, solve_plan
from odedeploy.tableau import Method

BUDGET = 512
"""Most evaluations of one solve."""


@dataclass(frozen=True)
class Layout:
    """The solves of a model and the share of the evaluations that each of them gets.

    ``weights`` has one positive entry per site. Kept sites run their kept plan, whatever the
    weights and the total.

    Raises BadInput when a solve's output times alone take more than ``BUDGET`` evaluations.
    """

    sites: tuple[Site, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        for site in self.replanned:
            if len(site.times) - 1 > BUDGET:
                raise BadInput(
                    f"The solve {site.name!r} has {len(site.times)} output times, more than the "
                    f"{BUDGET} evaluations that a plan may take; ask for fewer output times."
                )

    @classmethod
    def even(cls, sites: Sequence[Site]) -> Layout:
        """The same share for every output interval of every solve."""
        return cls(tuple(sites), tuple(float(len(site.times) - 1) for site in sites))

    @property
    def replanned(self) -> tuple[Site, ...]:
        """The sites whose solver is to be chosen."""
        return tuple(site for site in self.sites if site.kept is None)

    @property
    def constants(self) -> bool:
        """Whether a vector field reads biases that a plan may replace."""
        return any(site.constants for site in self.replanned)

    @property
    def kept_evaluations(self) -> int:
        """Evaluations of the kept plans."""
        return sum(site.kept.program.evaluations for site in self.sites if site.kept is not None)

    @property
    def least(self) -> int:
        """Evaluations of the shortest plan there is: one a step, one step an output interval."""
        return self.kept_evaluations + sum(len(site.times) - 1 for site in self.replanned)

    @property
    def most(self) -> int:
        """No plan within the budget takes more evaluations."""
        return self.kept_evaluations + BUDGET * len(self.replanned)

    def plan(self, method: Method, evaluations: int, budget: int = BUDGET) -> Plan | None:
        """The plan of at most ``evaluations`` in all, kept ones included, at most ``budget`` per
        solve; None when the output times alone take more.

        Starts from one step an output interval and adds steps, each where the evaluations fall
        shortest of the solve's share.
        """
        sites = self.replanned
        steps = [len(site.times) - 1 for site in sites]
        costs = [method.evaluations(n) for n in steps]
        left = evaluations - self.kept_evaluations - sum(costs)
        if left < 0 or max(costs, default=0) > budget:
            return None
        weight = [w for w, site in zip(self.weights, self.sites, strict=True) if site in sites]
        while True:
            prices = [method.evaluations(n + 1) - c for n, c in zip(steps, costs, strict=True)]
            open_to = [i for i, p in enumerate(prices) if p <= left and costs[i] + p <= budget]
            if not open_to:
                return self._written(method, steps)
            i = max(open_to, key=lambda i: weight[i] / costs[i])
            steps[i] += 1
            costs[i] += prices[i]
            left -= prices[i]

    def _written(self, method: Method, steps: Sequence[int]) -> Plan:
        remaining = iter(steps)
        return Plan(
            tuple(
                site.kept
                or solve_plan(site.name, method, Grid.through(site.times, next(remaining)))
                for site in self.sites
            )
        )

    def halved(self, method: Method, plan: Plan, name: str) -> Plan:
        """``plan`` with about half of the steps in the solve ``name``."""
        steps = [
            max(len(site.times) - 1, plan[site.name].grid.steps // (2 if site.name == name else 1))
            for site in self.replanned
        ]
        return self._written(method, steps)
