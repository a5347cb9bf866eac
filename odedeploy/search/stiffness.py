"""How stiff a vector field is on its trajectories: the spectral radius of its Jacobian.

An explicit solve stays bounded only while step · ρ lies in the stability region of its method, so
ρ times the length of the solve says how many evaluations stability asks for, whatever the
tolerance. ρ is found by power iteration on Jacobian–vector products at several times of the
trajectories. The products are central differences in float64, which every field permits, those
that differentiate inside included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from odedeploy.errors import OdeDeployError
from odedeploy.executor import Field, States
from odedeploy.graph import Inputs, Site
from odedeploy.grid import Grid
from odedeploy.program import Plan, solve_plan
from odedeploy.solvers import find

TIMES = 8
"""Times of the trajectories at which the spectral radius is estimated."""

ITERATIONS = 12
"""Power iterations at a time; the growth of the last half of them counts."""

STIFF = 16.0
"""ρ·T from which a solve counts as stiff: Euler's method needs half as many steps to stay bounded,
more than an accuracy of a few digits takes on a smooth field."""

REAL = 0.7
"""Share of the growth along the vector itself, from which the dominant spectrum counts as real."""

MOST = 512
"""Most steps of the plan on whose trajectory the field is examined."""


@dataclass(frozen=True)
class Stiffness:
    """``radius`` is the largest ρ of the Jacobian found, times the length of the solve.

    ``direction`` is v·Jv / ‖Jv‖ of the dominant vector v there, in the direction of the solve: −1
    when it decays, 1 when it grows, near 0 when it turns.
    """

    radius: float
    direction: float

    @property
    def stiff(self) -> bool:
        """Whether stability, by a real negative spectrum, and not accuracy sets the step."""
        return self.radius >= STIFF and self.direction <= -REAL


@runtime_checkable
class Observable(Protocol):
    """An evaluator that shows a plan's evaluations, with the field, to a function."""

    def observe(
        self, plan: Plan, inputs: Inputs, visit: Callable[[str, Field, Tensor, States], None]
    ) -> None: ...


def stiffness(
    evaluator: Observable, sites: Sequence[Site], inputs: Inputs
) -> dict[str, Stiffness]:
    """The stiffness of every solve, by site, on ``inputs``; a few rows are enough.

    Kept solves count, too, on the trajectories of their own plans.

    The trajectories are solved with RK4, whose steps double until it is stable by the estimate
    itself. A field that cannot be examined, or whose solve leaves the finite numbers however short
    the steps, is left out.
    """
    steps, found = TIMES, dict[str, Stiffness]()
    while steps <= MOST:
        plan = Plan(
            tuple(
                site.kept or solve_plan(site.name, find("rk4"), Grid.through(site.times, steps))
                for site in sites
            )
        )
        survey = _Survey(plan)
        try:
            evaluator.observe(plan, inputs, survey)
        except (OdeDeployError, RuntimeError):
            return {}
        found = survey.found()
        largest = max((s.radius for s in found.values()), default=np.inf)
        if len(found) == len(sites) and largest <= 2 * steps:
            break
        steps *= 4
    return found


@dataclass
class _Survey:
    """Estimates at ``TIMES`` of the evaluations of each solve."""

    plan: Plan
    _seen: dict[str, int] = field(default_factory=dict)
    _estimates: dict[str, list[Stiffness]] = field(default_factory=dict)

    def __call__(self, site: str, f: Field, t: Tensor, states: States) -> None:
        solve = self.plan[site]
        place = self._seen[site] = self._seen.get(site, -1) + 1
        every = max(1, solve.program.evaluations // TIMES)
        if place % every == 0:
            length = solve.grid.times[-1] - solve.grid.times[0]
            self._estimates.setdefault(site, []).append(_estimate(f, t, states, length))

    def found(self) -> dict[str, Stiffness]:
        """The stiffest estimate of every solve whose estimates are all finite."""
        return {
            site: max(estimates, key=lambda s: s.radius)
            for site, estimates in self._estimates.items()
            if all(np.isfinite(s.radius) for s in estimates)
        }


def _estimate(f: Field, t: Tensor, states: States, length: float) -> Stiffness:
    """Power iteration at one point, for all inputs as one system.

    The growth is averaged geometrically, as a dominant complex pair makes it swing.
    """
    generator = torch.Generator().manual_seed(0)
    v = _unit([torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in states])
    scale = 1e-6 * (1.0 + float(_norm(states)))
    growth, direction = [], 0.0
    for _ in range(ITERATIONS):
        up, down = (
            f(t, tuple(x + sign * scale * d for x, d in zip(states, v, strict=True)))
            for sign in (1, -1)
        )
        product = [(a - b) / (2 * scale) for a, b in zip(up, down, strict=True)]
        size = float(_norm(product))
        growth.append(size)
        if not size > 0 or not np.isfinite(size):
            break
        direction = float(sum((a * b).sum() for a, b in zip(v, product, strict=True))) / size
        v = _unit(product)
    late = growth[len(growth) // 2 :]
    radius = float(np.exp(np.mean(np.log(np.maximum(late, 1e-300)))))
    return Stiffness(radius * abs(length), direction * float(np.sign(length)))


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.sqrt(sum(((x * x).sum() for x in tensors), torch.zeros((), dtype=torch.float64)))


def _unit(tensors: Sequence[Tensor]) -> list[Tensor]:
    size = _norm(tensors)
    return [x / size for x in tensors]
