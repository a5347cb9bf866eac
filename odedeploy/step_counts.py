"""How far a loop keeps its tolerance when it is given another number of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from odedeploy.formats import Runner
from odedeploy.graph import Inputs, Site
from odedeploy.lowering.loop import step_counts
from odedeploy.program import Plan
from odedeploy.runtime import STEPS, Arrays, batch_first, batch_symbol
from odedeploy.search import Certificate
from odedeploy.solvers import find

FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
"""Numbers of steps that are tried, in units of the plan's."""

ROWS = 128
"""Inputs run at a time."""


def measured(
    runner: Runner,
    plan: Plan,
    sites: tuple[Site, ...],
    inputs: Inputs,
    errors_of: Callable[[Arrays], np.ndarray],
    judged: Callable[[np.ndarray], Certificate],
) -> dict[str, Any]:
    """Errors of a loop at several numbers of steps, for the manifest.

    ``errors_of`` gives the error of every input from the loop's outputs on ``inputs``, and
    ``judged`` the certificate of such errors.

    ``default`` is the plan's number, ``errors`` holds steps, nfe, bound and max of each number
    tried, and ``certified`` the least and the most steps of the longest run of them around the
    default that keeps the tolerance, None when the default does not. Where the runner cannot be
    given another number, the default alone is tried.
    """
    free = [plan[site.name] for site in sites if site.kept is None]
    default = sum(solve.grid.steps for solve in free)
    bound = STEPS in runner.limits.get("defaults", ())
    tried = {max(1, round(factor * default)) for factor in ((1.0,) if bound else FACTORS)}
    errors = []
    for steps in sorted(tried):
        given = {} if bound else {STEPS: np.array(steps)}
        certificate = judged(errors_of(_outputs(runner, inputs, given)))
        nfe = plan.evaluations - sum(solve.program.evaluations for solve in free)
        for solve in free:
            shares = [_share(count, default, steps) for count in step_counts(solve)]
            nfe += find(solve.solver).evaluations(sum(shares))
        errors.append({"steps": steps, "nfe": nfe, "bound": certificate.bound,
                       "max": certificate.max, "kept": certificate.passed})  # fmt: skip
    return {"default": default, "errors": errors, "certified": _run_around(default, errors)}


def _share(count: int, total: int, steps: int) -> int:
    """Steps of an interval, as ``lowering.steps.lay_out`` gives them out."""
    return max(1, (2 * count * steps + total) // (2 * total))


def _run_around(default: int, errors: list[dict[str, Any]]) -> list[int] | None:
    kept = {int(each["steps"]): bool(each["kept"]) for each in errors}
    if not kept[default]:
        return None
    low = high = default
    for steps in sorted((n for n in kept if n < default), reverse=True):
        if not kept[steps]:
            break
        low = steps
    for steps in sorted(n for n in kept if n > default):
        if not kept[steps]:
            break
        high = steps
    return [low, high]


def _outputs(runner: Runner, inputs: Inputs, given: Arrays) -> dict[str, np.ndarray]:
    symbol = batch_symbol(runner.inputs)
    batched = {spec.name for spec in runner.inputs if spec.shape[:1] == (symbol,)}
    count = max((len(inputs[name]) for name in batched), default=1)
    parts = []
    for first in range(0, count, ROWS):
        part = {n: a[first : first + ROWS] if n in batched else a for n, a in inputs.items()}
        outputs = runner.run({**part, **given})
        parts.append(batch_first(outputs, runner.outputs, symbol))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
