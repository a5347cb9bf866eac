"""Is a trained model an ODE, or only the solver it was trained with?

One file per check; its ``examine`` turns a ``Subject`` into a ``Finding``, and one line in
``CHECKS`` makes it known. The verdict is drawn from all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import cast

import numpy as np

from odedeploy.checking.lock import doubt as doubt
from odedeploy.checking.records import Check as Check
from odedeploy.checking.records import Finding as Finding
from odedeploy.checking.records import Subject as Subject
from odedeploy.checking.verdict import VERDICTS as VERDICTS
from odedeploy.checking.verdict import judge
from odedeploy.errors import BadInput
from odedeploy.frontends.evaluation import TorchEvaluator
from odedeploy.graph import Inputs, Site
from odedeploy.reference import Progress, batch_size, silent, solve, take

CHECKS: Mapping[str, str] = MappingProxyType(
    {
        "weights": "odedeploy.checking.weights",
        "reference": "odedeploy.checking.resolution",
        "lock": "odedeploy.checking.lock",
        "order": "odedeploy.checking.order",
        "stiffness": "odedeploy.checking.stiff",
        "lipschitz": "odedeploy.checking.lipschitz",
        "reversibility": "odedeploy.checking.reversal",
    }
)
"""Name → module with ``examine(subject) -> Finding``, in the order of examination."""

INPUTS = 64
"""Inputs that are examined."""


def check(
    evaluator: TorchEvaluator,
    sites: tuple[Site, ...],
    inputs: Inputs,
    tol: float,
    progress: Progress = silent,
) -> Check:
    """Examine a model with its solves ``sites`` on the first ``INPUTS`` of ``inputs``.

    ``tol`` is the relative error of the outputs up to which two solves count as the same. Raises
    BadInput for a model that solves no ODE.
    """
    if not sites:
        raise BadInput("This model solves no ODE, so there is nothing to check.")
    count = min(INPUTS, batch_size(inputs, evaluator.static))
    rows = take(inputs, np.arange(count), evaluator.static)
    subject = Subject(evaluator, sites, rows, count, tol)
    try:
        solution = solve(evaluator, subject.odes, rows, tol, progress, evaluator.static)
        subject = subject.solved(solution)
    except BadInput as error:
        subject = subject.unsolved(str(error))
    findings = []
    for done, (name, module) in enumerate(CHECKS.items()):
        progress(name, done, len(CHECKS))
        examine = cast(Callable[[Subject], Finding], import_module(module).examine)
        findings.append(examine(subject))
    return judge(subject, findings)
