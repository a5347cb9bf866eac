"""Does a tight solve settle?"""

from __future__ import annotations

from odedeploy.checking.records import Finding, Subject
from odedeploy.reference import SHARE


def examine(subject: Subject) -> Finding:
    """The reference solve and its own error between two resolutions."""
    solution = subject.solution
    if solution is None:
        return Finding("reference", "bad", subject.failure, {})
    values = {
        "method": solution.method,
        "evaluations": solution.evaluations,
        "self_check": solution.self_check,
    }
    words = (
        f"Two float64 resolutions of {solution.method} agree to {solution.self_check:.1e}, within "
        f"{SHARE:.0%} of {subject.tol:g}, with up to {solution.evaluations} evaluations."
    )
    return Finding("reference", "good", words, values)
