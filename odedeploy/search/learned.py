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


Values = Sequence[Tensor]
"""Tensors in place of the parameters of a family, or of several one after the other."""


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
        rows = [row[:i] for i, row in enumerate(start.rows)][1:]
        self.parameters = [
            torch.tensor(x / self.length, requires_grad=True) for x in (start.weights[1:], *rows)
        ]
        self.decoupled = decoupled
        if decoupled:
            shifts = torch.zeros(start.stages, dtype=torch.float64, requires_grad=True)
            self.parameters.append(shifts)

    def numbers(self, values: Values | None = None) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Stage times, rows (0,) … (n − 1,) and weights (outputs, n) over the unit interval.

        They are those of ``parameters``, or of ``values`` in their place: weights, rows from the
        second on and, if decoupled, shifts. A stage is a function of its own row alone, so that
        derivatives to another cost it nothing.
        """
        weights, *rows = self.parameters if values is None else values
        shifts = rows.pop().unbind() if self.decoupled else []
        rows = [weights.new_zeros(0), *rows]
        nodes = [row.sum() for row in rows]
        times = nodes
        if shifts:
            times = [c + SHIFT * torch.tanh(s) for c, s in zip(nodes, shifts, strict=True)]
        return times, rows, self._projected(torch.stack(nodes), torch.stack(times), weights)

    def _projected(self, nodes: Tensor, times: Tensor, weights: Tensor) -> Tensor:
        """b − M⁺(M b − r): the nearest weights that keep the order conditions."""
        conditions, values = [torch.ones_like(nodes)], [self.ends]
        if self.order == 2:
            conditions.append(nodes)
            values.append(self.ends**2 / 2)
            if self.decoupled:
                conditions.append(times)
                values.append(self.ends**2 / 2)
        m, r = torch.stack(conditions), torch.stack(values)
        nearest: Tensor = weights - (torch.linalg.pinv(m) @ (m @ weights.T - r)).T
        return nearest

    def amplification(self, values: Values | None = None) -> Tensor:
        """The largest Σ|b| of an output over the unit interval."""
        return self.numbers(values)[2].abs().sum(dim=1).max()

    def solve_plan(self, values: Values | None = None) -> SolvePlan:
        """The method of ``parameters``, or of ``values`` in their place, gradients alive."""
        times, rows, weights = self.numbers(values)
        program = written_out(
            [self.t0 + self.length * time for time in times],
            [(self.length * row).unbind() for row in rows],
            [(), *((self.length * row).unbind() for row in weights)],
        )
        return SolvePlan(self.site.name, NAME, self._grid, program)

    def frozen(self) -> SolvePlan:
        """The method as plain data."""
        fixed = [parameter.detach() for parameter in self.parameters]
        times, rows, weights = self.numbers(fixed)
        n = len(times)
        full = np.zeros((n, n))
        for i, row in enumerate(rows):
            full[i, :i] = row.numpy()
        dense = Dense(
            self.t0 + self.length * torch.stack(times).numpy(),
            self.length * full,
            self.length * np.vstack([np.zeros(n), weights.numpy()]),
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

    def plan(self, values: Values | None = None) -> Plan:
        """The plan of ``parameters``, or of ``values`` in their place, gradients alive."""
        parts = iter(self._parts(values))
        return Plan(
            tuple(s.solve_plan(next(parts)) if isinstance(s, Family) else s for s in self._solves)
        )

    def frozen(self) -> Plan:
        """As plain data."""
        return Plan(tuple(s.frozen() if isinstance(s, Family) else s for s in self._solves))

    def excess(self, values: Values | None = None) -> Tensor:
        """Amplification beyond ``AMPLIFICATION``, by family; its square is the penalty."""
        pairs = zip(self.families, self._parts(values), strict=True)
        return torch.stack(
            [(f.amplification(part) - AMPLIFICATION).clamp(min=0) for f, part in pairs]
        )

    def _parts(self, values: Values | None) -> list[Values | None]:
        """``values`` by family."""
        if values is None:
            return [None] * len(self.families)
        ends = np.cumsum([len(f.parameters) for f in self.families])
        return [values[end - len(f.parameters) : end] for f, end in
                zip(self.families, ends, strict=True)]  # fmt: skip


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
