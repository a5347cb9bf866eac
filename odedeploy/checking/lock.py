"""Does the model answer the same when it is solved more accurately than its author did?

A network trained through a coarse solver can learn the solver's error as part of the map: its
answers then change when the steps are refined, and a better solve is worse on the task (Ott et al.
2021, "ResNet After All?"; Krishnapriyan et al. 2023). The distance to the map as written is then
V-shaped in the step size, with its minimum at the step of training.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from odedeploy.checking.records import Finding, Subject
from odedeploy.errors import BadInput
from odedeploy.frontends.evaluation import TorchEvaluator
from odedeploy.graph import Inputs, Site
from odedeploy.grid import Grid
from odedeploy.metrics.agreement import margin_used
from odedeploy.program import Plan, SolvePlan, solve_plan
from odedeploy.reference import Reference
from odedeploy.solvers import SOLVERS, TORCHDIFFEQ, find
from odedeploy.tolerance import floor_of, worst_error

LOCKED = 0.1
"""Distance from the solution, relative to it, from which a model counts as another map."""

FAR = 1e-2
"""Distance from which an export says so."""

CHANGED = 0.05
"""Share of inputs with another class from which a model counts as another map."""

SAME = 1e-3
"""Distance up to which steps of the catalogue's give the map as written back."""

FINE = 32
"""RK4 steps of the adaptive calls beside a refined fixed-step one."""

QUANTILE = 0.9
"""Share of the inputs that the distance speaks for."""


def examine(subject: Subject) -> Finding:
    """Distance of outputs and share of classes between the model as written and its solution.

    For fixed-step calls also the distance from the map as written at half, double and a quarter of
    its steps.
    """
    fixed = [site for site in subject.sites if site.kept is not None]
    if subject.solution is None:
        words = "There is no solution to compare the solve as written with."
        return Finding("lock", "unknown", words, {"fixed_steps": bool(fixed)})
    written, evaluations = subject.evaluator.as_written(subject.inputs)
    truth = subject.solution.outcome.outputs
    distance = spread(worst_error(written.outputs, truth))
    changed = classes_changed(written.outputs, truth)
    values: dict[str, Any] = {
        "fixed_steps": bool(fixed),
        "solvers": sorted({site.method for site in subject.sites}),
        "evaluations": evaluations,
        "distance": distance,
        "classes_changed": changed,
    }
    if fixed:
        values["refined"] = _refined(subject, written.outputs)
    far = distance["quantile"]
    outcome = "good" if far <= subject.tol and not (changed or 0) > CHANGED else "note"
    if far > max(LOCKED, subject.tol) or (changed or 0) > CHANGED:
        outcome = "bad"
    words = (
        f"The solve as written ({', '.join(values['solvers'])}, {evaluations:.0f} evaluations) "
        f"differs from the solution by up to {far:.2g} of it for {QUANTILE:.0%} of inputs"
    )
    if changed is not None:
        words += f" and gives another class for {changed:.1%}"
    shape = values.get("refined") or {}
    if shape.get("v_shaped"):
        words += (
            f"; with half of its step it moves by {shape['h/2']:.2g}, with a quarter of it by "
            f"{shape['h/4']:.2g}"
        )
    return Finding("lock", outcome, words + ".", values)


def spread(errors: np.ndarray) -> dict[str, float]:
    """Median, the ``QUANTILE`` and the largest of errors, shape (n,)."""
    ordered = np.sort(errors)
    place = int(np.ceil(QUANTILE * len(errors))) - 1
    return {
        "median": float(np.median(ordered)),
        "quantile": float(ordered[place]),
        "max": float(ordered[-1]),
    }


def classes_changed(
    found: dict[str, np.ndarray], truth: dict[str, np.ndarray]
) -> float | None:
    """Share of inputs with another class in an output of scores, (batch, classes); None without.

    Only outputs of rank 2 with 2 classes or more are taken for scores.
    """
    scores = [name for name, y in truth.items() if y.ndim == 2 and y.shape[1] >= 2]
    if not scores:
        return None
    used = [margin_used(found[name], truth[name]) for name in scores]
    return float(np.mean(np.max(used, axis=0) >= 1))


def doubt(
    evaluator: TorchEvaluator, reference: Reference, inputs: Inputs, replan: bool
) -> str:
    """A sentence where the model as written is far from ``reference``, else none.

    ``inputs`` are the first of those that the reference was solved on. Raises BadInput where fixed
    steps are to be taken for an ODE, with ``replan``, and the model is another map.
    """
    written, _ = evaluator.as_written(inputs)
    count = len(next(iter(written.outputs.values())))
    truth = {name: array[:count] for name, array in reference.outcome.outputs.items()}
    floors = {name: floor_of(array) for name, array in reference.outcome.outputs.items()}
    distance = spread(worst_error(written.outputs, truth, floors))["quantile"]
    if distance <= FAR:
        return ""
    apart = (
        f"The model as written differs from the solution of its ODE by up to {distance:.2g} for "
        f"{QUANTILE:.0%} of {count} inputs"
    )
    if replan and distance > LOCKED:
        raise BadInput(
            f"{apart}: it is locked to its own solver, and another one changes what it computes; "
            "drop --replan to keep its steps, or add --best-effort to export the solution."
        )
    return (
        f"{apart}, and the file answers with the solution: compare its task metric with that of "
        "the model as written (odedeploy check tells more)."
    )


def _refined(subject: Subject, written: dict[str, np.ndarray]) -> dict[str, Any]:
    """Distances from the map as written when the steps of its fixed-step calls change.

    Empty when the same steps do not give that map back, as where they are not equal.
    """
    distances: dict[str, Any] = {}
    for name, factor in (("h", 1.0), ("2h", 0.5), ("h/2", 2.0), ("h/4", 4.0)):
        plan = _rescaled(subject.sites, factor)
        if plan is not None:
            outputs = subject.evaluator.run(plan, subject.inputs, "float64").outputs
            distances[name] = spread(worst_error(outputs, written))["quantile"]
    if not distances.get("h", np.inf) <= SAME:
        return {}
    distances["v_shaped"] = min(distances["h/2"], distances["h/4"]) > max(LOCKED, subject.tol)
    return distances


def _rescaled(sites: tuple[Site, ...], factor: float) -> Plan | None:
    """Every fixed-step call with ``factor`` times as many steps, the others solved by RK4; None
    where a method is not in the catalogue or an output interval has no steps left to take away.
    """
    solves: list[SolvePlan] = []
    for site in sites:
        name = TORCHDIFFEQ.get(site.method, site.method)
        if site.kept is None:
            solves.append(solve_plan(site.name, find("rk4"), Grid.through(site.times, FINE)))
            continue
        if name not in SOLVERS:
            return None
        method = find(name)
        steps = site.kept.program.evaluations / method.evaluations(1) * factor
        if steps < len(site.times) - 1 or steps != int(steps):
            return None
        solves.append(solve_plan(site.name, method, Grid.through(site.times, int(steps))))
    return Plan(tuple(solves))
