"""Non-uniform grids: where a method's steps do the most.

A method of order p makes a local error of h^(p + 1)·‖y^(p + 1)‖; the sum over n steps is smallest
where every step's is the same, with a density of steps ∝ ‖y^(p + 1)‖^(1/(p + 1)) (equidistribution:
Ascher, Mattheij, Russell 1995, section 9.1.1). The steps that an adaptive solver accepts are
another such density. Both place steps for free; gradients then move them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from odedeploy.frontends.evaluation import TorchEvaluator
from odedeploy.frontends.observing import accepted, visits
from odedeploy.graph import Inputs, Site
from odedeploy.grid import Grid
from odedeploy.program import Plan, SolvePlan, solve_plan, write
from odedeploy.search.layout import Layout
from odedeploy.solvers import find

NODES = 48
"""Steps of the solve on which derivatives of the solution are taken."""

GAIN = 1.1
"""Predicted ratio of evaluations below which a density is not worth trying."""

SHORTEST = 0.05
"""Least length of a step, as a share of the mean step of its output interval."""

CHUNK = 8
"""Inputs that an adaptive solver steps through together, by the norm over all of them."""


@dataclass(frozen=True)
class Density:
    """Where one solve's steps should be: cumulative ``mass`` at ``nodes``; ``gain`` is the
    predicted ratio of evaluations on a uniform grid to those on this one.
    """

    nodes: np.ndarray
    mass: np.ndarray
    gain: float


Densities = Mapping[str, Density]


def equidistributed(
    evaluator: TorchEvaluator, sites: Sequence[Site], inputs: Inputs, order: int
) -> Densities:
    """By site, the density that equidistributes the local error of a method of ``order``.

    The p-th differences of the slopes along an Adams–Bashforth solve of ``NODES`` steps stand for
    y^(p + 1).
    """
    seen = visits(evaluator, fine(sites), inputs)
    return {
        site.name: _density(seen[site.name].times, seen[site.name].slopes, site, order)
        for site in sites
        if site.kept is None
    }


def fine(sites: Sequence[Site]) -> Plan:
    """Every solve in ``NODES`` Adams–Bashforth steps, one evaluation at the start of each."""
    method = find("ab3_euler")
    return Plan(
        tuple(s.kept or solve_plan(s.name, method, Grid.through(s.times, NODES)) for s in sites)
    )


def _density(times: np.ndarray, slopes: np.ndarray, site: Site, order: int) -> Density:
    wide, centres = slopes.astype(np.float64), times
    for _ in range(order):
        wide = np.diff(wide, axis=0) / np.diff(centres)[:, None, None]
        centres = (centres[1:] + centres[:-1]) / 2
    local = np.sqrt(np.square(wide).sum(axis=2)).mean(axis=1)
    local = np.convolve(np.pad(local, 2, mode="edge"), np.full(5, 0.2), mode="valid")
    nodes = np.linspace(site.times[0], site.times[-1], NODES + 1)
    middle = (nodes[:-1] + nodes[1:]) / 2
    direction = np.sign(nodes[-1] - nodes[0])
    error = np.interp(direction * middle, direction * centres, local)
    error = np.maximum(error, max(error.max(), 1e-300) * 1e-6)
    density = error ** (1 / (order + 1))
    gain = (error.mean() / density.mean() ** (order + 1)) ** (1 / order)
    return Density(nodes, _cumulative(density), float(gain))


def harvested(
    evaluator: TorchEvaluator, sites: Sequence[Site], inputs: Inputs, tol: float
) -> Densities:
    """By site, the density of the steps that an adaptive dopri5 accepts at ``tol``, pooled over
    chunks of the inputs.
    """
    densities = {}
    for site, runs in zip(sites, accepted(evaluator, inputs, tol, CHUNK), strict=True):
        if site.kept is not None:
            continue
        nodes = np.linspace(site.times[0], site.times[-1], NODES + 1)
        direction = np.sign(nodes[-1] - nodes[0])
        shares = [
            np.interp(direction * nodes, direction * steps, np.linspace(0, 1, len(steps)))
            for steps in runs
        ]
        density = np.diff(np.mean(shares, axis=0))
        smooth = np.convolve(np.pad(density, 3, mode="edge"), np.full(7, 1 / 7), mode="valid")
        mass = _cumulative(np.maximum(smooth, 0.05 * smooth.mean()))
        densities[site.name] = Density(nodes, mass, float(smooth.max() / smooth.mean()))
    return densities


def _cumulative(density: np.ndarray) -> np.ndarray:
    mass: np.ndarray = np.concatenate([[0.0], np.cumsum(density)]) / density.sum()
    return mass


def moved(plan: Plan, layout: Layout, densities: Densities) -> Plan:
    """``plan`` with the steps of every replanned solve placed by its density."""
    solves = []
    for solve, site in zip(plan.solves, layout.sites, strict=True):
        density = densities.get(site.name)
        if site.kept is not None or density is None:
            solves.append(solve)
            continue
        grid = Grid.spread(site.times, solve.grid.steps, density.nodes, density.mass)
        solves.append(solve_plan(site.name, find(solve.solver), grid))
    return Plan(tuple(solves))


class Steps:
    """The step sizes of one solve as parameters: h = T((1 − nε) softmax(w) + ε) within every
    output interval of length T, where ε is ``SHORTEST``/n.
    """

    def __init__(self, solve: SolvePlan) -> None:
        self.solve = solve
        self.method = find(solve.solver)
        grid, self.parameters = solve.grid, list[Tensor]()
        self.intervals = list(zip(grid.outputs, grid.outputs[1:], strict=False))
        for first, last in self.intervals:
            times = np.array(grid.times[first : last + 1])
            shares = np.diff(times) / (times[-1] - times[0])
            logits = np.log(np.maximum(shares - SHORTEST / len(shares), 1e-3 / len(shares)))
            self.parameters.append(torch.tensor(logits, requires_grad=True))

    def times(self, values: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Step boundaries, those at output times pinned; of ``parameters``, or of ``values``."""
        grid = self.solve.grid
        times = [torch.tensor(grid.times[0], dtype=torch.float64)]
        for logits, (first, last) in zip(values or self.parameters, self.intervals, strict=True):
            start, end = grid.times[first], grid.times[last]
            shares = (1 - SHORTEST) * torch.softmax(logits, 0) + SHORTEST / len(logits)
            inner = start + (end - start) * torch.cumsum(shares, 0)[:-1]
            times += [*inner.unbind(), torch.tensor(end, dtype=torch.float64)]
        return times

    def solve_plan(self, values: Sequence[Tensor] | None = None) -> SolvePlan:
        """The method on the grid of ``parameters``, or of ``values``, gradients alive."""
        program = write(self.method, self.times(values), self.solve.grid.outputs)  # type: ignore[arg-type]
        return SolvePlan(self.solve.site, self.solve.solver, self.solve.grid, program)

    def frozen(self) -> SolvePlan:
        """The method on this grid as plain data."""
        with torch.no_grad():
            grid = Grid(tuple(float(t) for t in self.times()), self.solve.grid.outputs)
        return solve_plan(self.solve.site, self.method, grid)
