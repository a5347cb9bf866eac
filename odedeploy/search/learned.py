"""Learned solvers: the coefficients of one explicit n-stage method, fitted to the reference.

x_i = x_0 + Σ_{j<i} B_ij k_j and out = x_0 + Σ_j b_j k_j, where k_j = f(t_j, x_j); every explicit
fixed-step method is a point of this family, and so is what the fit starts from. Row sums give the
stage times, and the weights are projected onto the conditions of order 1 or 2, so that a field
weaker than those of the calibration inputs is solved the better, whatever the fit (bespoke
non-stationary solvers without scaling: Shaul et al. 2024, arXiv 2403.01329).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from odedeploy.graph import Site
from odedeploy.grid import Grid
from odedeploy.program import Dense, Plan, SolvePlan, contract, expand, written_out

NAME = "learned"

SHIFT = 0.1
"""Most that a decoupled stage time may differ from its row sum, as a share of the interval."""

AMPLIFICATION = 5.0
"""Σ|b| over the length of the interval beyond which the fit is penalised: round-off and the noise
of low precision grow by as much."""

NEGLIGIBLE = 1e-9
"""Coefficients of at most this share of the interval are left out."""


class Family:
    """The methods of n stages for one solve, parametrised around ``start``.

    ``order`` is 1 or 2, and 1 where n is too small for the conditions of order 2. With
    ``decoupled`` the field is evaluated up to ``SHIFT`` away from the time of its stage.
    """

    def __init__(self, site: Site, start: Dense, order: int, decoupled: bool = False) -> None:
        self.site = site
        # fewer weights than conditions can keep the first one only
        self.order = order if start.stages >= (3 if decoupled else 2) else 1
        self.t0 = site.times[0]
        self.length = site.times[-1] - site.times[0]
        ends = (np.array(site.times) - self.t0) / self.length
        self.ends = torch.tensor(ends[1:])
        n = start.stages
        self.lower = torch.tril(torch.ones(n, n, dtype=torch.float64), -1)
        self.rows = torch.tensor(start.rows / self.length, requires_grad=True)
        self.weights = torch.tensor(start.weights[1:] / self.length, requires_grad=True)
        self.shifts = torch.zeros(n, dtype=torch.float64, requires_grad=decoupled)
        self.parameters = [self.rows, self.weights, *([self.shifts] if decoupled else [])]

    def numbers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Stage times (n,), rows (n, n) and weights (outputs, n) over the unit interval."""
        rows = self.rows * self.lower
        nodes = rows.sum(dim=1)
        times = nodes + SHIFT * torch.tanh(self.shifts)
        return times, rows, self._projected(nodes, times)

    def _projected(self, nodes: Tensor, times: Tensor) -> Tensor:
        """b − M⁺(M b − r): the nearest weights that keep the order conditions."""
        conditions, values = [torch.ones_like(nodes)], [self.ends]
        if self.order == 2:
            conditions.append(nodes)
            values.append(self.ends**2 / 2)
            if self.shifts.requires_grad:
                conditions.append(times)
                values.append(self.ends**2 / 2)
        m, r = torch.stack(conditions), torch.stack(values)
        nearest: Tensor = self.weights - (torch.linalg.pinv(m) @ (m @ self.weights.T - r)).T
        return nearest

    def amplification(self) -> Tensor:
        """The largest Σ|b| of an output over the unit interval."""
        return self.numbers()[2].abs().sum(dim=1).max()

    def solve_plan(self) -> SolvePlan:
        """The method with gradients to its parameters."""
        times, rows, weights = self.numbers()
        program = written_out(
            (self.t0 + self.length * times).unbind(),
            [(self.length * row[:i]).unbind() for i, row in enumerate(rows)],
            [(), *((self.length * row).unbind() for row in weights)],
        )
        return SolvePlan(self.site.name, NAME, self._grid, program)

    def frozen(self) -> SolvePlan:
        """The method as plain data."""
        with torch.no_grad():
            times, rows, weights = (x.numpy() for x in self.numbers())
        weights = np.vstack([np.zeros(len(times)), weights])
        dense = Dense(
            self.t0 + self.length * times, self.length * rows, self.length * weights
        )
        program = contract(dense, NEGLIGIBLE * abs(self.length))
        return SolvePlan(self.site.name, NAME, self._grid, program)

    @property
    def _grid(self) -> Grid:
        return Grid(self.site.times, tuple(range(len(self.site.times))))


class Families:
    """All solves of a model at once: those replanned as families, kept ones as they are."""

    def __init__(
        self, sites: Sequence[Site], start: Plan, order: int, decoupled: bool = False
    ) -> None:
        self._solves = [
            site.kept or Family(site, expand(solve.program), order, decoupled)
            for site, solve in zip(sites, start.solves, strict=True)
        ]
        self.families = [solve for solve in self._solves if isinstance(solve, Family)]
        self.parameters = [p for family in self.families for p in family.parameters]

    def plan(self) -> Plan:
        """With gradients to ``parameters``."""
        return Plan(tuple(s.solve_plan() if isinstance(s, Family) else s for s in self._solves))

    def frozen(self) -> Plan:
        """As plain data."""
        return Plan(tuple(s.frozen() if isinstance(s, Family) else s for s in self._solves))

    def penalty(self) -> Tensor:
        """Zero up to ``AMPLIFICATION``, then quadratic."""
        excess = [(f.amplification() - AMPLIFICATION).clamp(min=0) for f in self.families]
        return torch.stack(excess).square().sum()


def inserted(plan: Plan, sites: Sequence[Site]) -> Plan:
    """``plan`` with one more evaluation, which has no weight yet, in its longest solve.

    It lies in the middle of the widest gap between the times of two stages in a row; its state is
    the mean of theirs.
    """
    free = [i for i, site in enumerate(sites) if site.kept is None]
    chosen = max(free, key=lambda i: plan.solves[i].program.evaluations)
    solve = plan.solves[chosen]
    dense = expand(solve.program)
    end = sites[chosen].times[-1]
    gaps = np.abs(np.diff(np.append(dense.times, end)))
    k = int(np.argmax(gaps)) + 1
    following = dense.rows[k] if k < dense.stages else dense.weights[-1]
    after = dense.times[k] if k < dense.stages else end
    row = np.insert((dense.rows[k - 1] + following) / 2, k, 0.0)
    row[k:] = 0.0
    if row.sum():
        row *= ((dense.times[k - 1] + after) / 2 - sites[chosen].times[0]) / row.sum()
    rows = np.insert(np.insert(dense.rows, k, 0.0, axis=1), k, row, axis=0)
    times = np.insert(dense.times, k, (dense.times[k - 1] + after) / 2)
    grown = Dense(times, rows, np.insert(dense.weights, k, 0.0, axis=1))
    solves = list(plan.solves)
    solves[chosen] = SolvePlan(solve.site, NAME, solve.grid, contract(grown))
    return Plan(tuple(solves))
