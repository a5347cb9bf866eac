"""Does the solve come back when time is reversed?

The flow of an ODE is invertible: solved forward and then backward it returns to where it began, up
to the solver's error, which the backward solve may magnify. A map that is no flow does not return,
and an adjoint that solves backward in time goes where the state does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from odedeploy.checking.records import Finding, Subject
from odedeploy.checking.trajectories import visit
from odedeploy.errors import OdeDeployError
from odedeploy.executor import Field, States, solve
from odedeploy.grid import Grid
from odedeploy.program import solve_plan
from odedeploy.solvers import find

INPUTS = 8

STEPS = (64, 128)
"""RK4 steps each way; the error must shrink from the first to the second."""

RETURNS = 1e-2
"""Largest distance from the initial state, relative to it, that counts as having returned."""


def examine(subject: Subject) -> Finding:
    """Distance between the initial state and the one that comes back, by solve, in float64."""
    spans = {site.name: (site.times[0], site.times[-1]) for site in subject.sites}
    errors: dict[str, list[float]] = {}

    def look(site: str, field: Field, t: Tensor, states: States) -> None:
        if site not in errors:
            errors[site] = [_returned(field, states, *spans[site], steps) for steps in STEPS]

    try:
        visit(subject, INPUTS, 1, look)
    except (OdeDeployError, RuntimeError) as error:
        words = f"The field could not be solved backward ({type(error).__name__})."
        return Finding("reversibility", "unknown", words, {})
    values = {
        name: {f"error_{steps}": e for steps, e in zip(STEPS, each, strict=True)}
        for name, each in errors.items()
    }
    worst = max(each[-1] for each in errors.values())
    words = (
        f"Solved forward and backward in {STEPS[-1]} RK4 steps, the state returns to within "
        f"{worst:.1e} of where it began"
    )
    if worst <= RETURNS:
        return Finding("reversibility", "good", f"{words}.", values)
    words += (
        ": backward in time errors are magnified, and an adjoint that solves "
        "backward is not to be trusted."
    )
    return Finding("reversibility", "note", words, values)


def _returned(field: Field, initial: States, start: float, end: float, steps: int) -> float:
    there, back = (
        solve_plan("there and back", find("rk4"), Grid.uniform(*span, steps)).program
        for span in ((start, end), (end, start))
    )
    with torch.no_grad():
        final = tuple(trajectory[-1] for trajectory in solve(there, field, initial))
        again = [trajectory[-1] for trajectory in solve(back, field, final)]
    apart = math.hypot(*(float((a - b).norm()) for a, b in zip(again, initial, strict=True)))
    size = math.hypot(*(float(b.norm()) for b in initial))
    error = apart / max(size, 1e-12)
    return math.inf if math.isnan(error) else error
