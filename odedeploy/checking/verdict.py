"""The verdict: what a model is, drawn from what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from odedeploy.checking.records import Check, Finding, Subject

VERDICTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "broken": ("map", "The model has weights that are not finite and cannot be used."),
        "unresolved": (
            "map",
            "No solve of this model settles, however fine: the field is stiff, discontinuous or "
            "leaves the finite numbers, so there is no solution to compare with.",
        ),
        "solver-locked": (
            "map",
            "The model is not an ODE but the solver it was trained with: solved more accurately it "
            "answers differently, so its own steps are the model and are kept.",
        ),
        "solver-dependent": (
            "map",
            "The solve as written is too coarse for this tolerance: its answers differ from the "
            "solution's by more than that, though not so much that another model speaks.",
        ),
        "genuine": (
            "solution",
            "The model is an ODE: solved more accurately it answers the same, so any solver that "
            "keeps the tolerance may stand in for its own.",
        ),
    }
)
"""Verdict → what an export should answer to, and the sentence for people; the first that holds."""


def judge(subject: Subject, findings: Sequence[Finding]) -> Check:
    """The first verdict of the table whose condition the findings meet."""
    found = {finding.name: finding for finding in findings}
    lock = found["lock"].values
    if found["weights"].outcome == "bad":
        verdict = "broken"
    elif subject.solution is None:
        verdict = "unresolved"
    else:
        verdict = {"bad": "solver-locked", "note": "solver-dependent"}.get(
            found["lock"].outcome, "genuine"
        )
    target, words = VERDICTS[verdict]
    if verdict == "solver-dependent" and not lock["fixed_steps"]:
        target = "solution"
        words += " An export answers to the solution; compare its task metric before shipping it."
    return Check(verdict, words, target, subject.count, subject.tol, tuple(findings))
