"""The vector field at points of its trajectories."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from odedeploy.checking.records import Subject
from odedeploy.executor import Field, States

STEPS = 32
"""RK4 steps of the solve whose evaluations are visited."""

Visit = Callable[[str, Field, Tensor, States], None]


def visit(subject: Subject, inputs: int, points: int, look: Visit) -> None:
    """Call ``look`` (site, field, time, states) at up to ``points`` evaluations of each solve, on
    the first ``inputs`` inputs, in float64.
    """
    plan = subject.plan("rk4", STEPS)
    every = {solve.site: max(1, solve.program.evaluations // points) for solve in plan.solves}
    seen = dict.fromkeys(every, 0)

    def seldom(site: str, field: Field, t: Tensor, states: States) -> None:
        if seen[site] % every[site] == 0:
            look(site, field, t, states)
        seen[site] += 1

    subject.evaluator.observe(plan, subject.few(inputs), seldom)
