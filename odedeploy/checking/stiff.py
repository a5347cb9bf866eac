"""Does stability, rather than accuracy, set the step of an explicit solver?"""

from __future__ import annotations

from odedeploy.checking.records import Finding, Subject
from odedeploy.search.stiffness import stiffness

INPUTS = 8
"""Inputs whose trajectories are examined."""


def examine(subject: Subject) -> Finding:
    """ρ·T of every solve: the spectral radius of the Jacobian times the length of the solve."""
    found = stiffness(subject.evaluator, subject.odes, subject.few(INPUTS))
    values = {
        name: {"radius": each.radius, "direction": each.direction, "stiff": each.stiff}
        for name, each in found.items()
    }
    if not found:
        words = "The field could not be examined along its trajectories."
        return Finding("stiffness", "unknown", words, values)
    radius = max(each.radius for each in found.values())
    steps = max(1, round(radius / 2))
    words = f"The spectral radius times the length of the solve is {radius:.3g}: "
    if any(each.stiff for each in found.values()):
        words += (
            f"the field is stiff, Euler's method needs about {steps} steps to stay bounded, and "
            "stabilised methods (rkc, rkl) pay."
        )
        return Finding("stiffness", "note", words, values)
    words += "accuracy sets the step, not stability."
    return Finding("stiffness", "good", words, values)
