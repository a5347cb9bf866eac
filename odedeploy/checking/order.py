"""Do solvers converge at their order on this field?

p_obs = log₂(‖y_h − y_{h/2}‖ / ‖y_{h/2} − y_{h/4}‖) tends to a method's order where the field is
smooth enough for it. Kinks, such as those of ReLU, cap it at 2 or so; jumps leave less than 1.
"""

from __future__ import annotations

import numpy as np

from odedeploy.checking.records import Finding, Subject
from odedeploy.errors import OdeDeployError
from odedeploy.graph import Inputs
from odedeploy.metrics.relative import floors_of
from odedeploy.solvers import find
from odedeploy.tolerance import worst_error

METHODS = ("euler", "midpoint", "rk4")

INPUTS = 8
"""Inputs that are solved."""

STEPS = tuple(8 * 2**k for k in range(7))
"""Steps of the resolutions, while an input costs no more evaluations than ``MOST``."""

MOST = 1024

ROUND_OFF = 1e-12
"""Relative differences below which float64 hides the order."""

CLOSE = 0.3
"""How far an observed order may be from the declared one."""

STEADY = 0.1
"""Change between two resolutions from which the observed order has settled."""


def examine(subject: Subject) -> Finding:
    """Observed orders of Euler's method, the midpoint rule and RK4 in float64, on final states."""
    orders = {name: _observed(subject, name) for name in METHODS}
    declared = {name: find(name).order for name in METHODS}
    values = {"observed": orders, "declared": declared}
    known = {name: p for name, p in orders.items() if p is not None}
    listed = ", ".join(f"{name} {p:.2f} of {declared[name]}" for name, p in known.items())
    if not known:
        words = "The solves leave the finite numbers or differ by round-off alone."
        return Finding("order", "unknown", words, {**values, "field": "unknown"})
    reached = [p >= declared[name] - CLOSE for name, p in known.items()]
    if all(reached):
        words = f"Observed orders are as declared ({listed}): the field is smooth."
        return Finding("order", "good", words, {**values, "field": "smooth"})
    if known.get("euler", 1.0) >= declared["euler"] - CLOSE:
        words = (
            f"High orders are not reached ({listed}): the field has kinks along its trajectories, "
            "as ReLU gives it, and many cheap steps serve it better than few of high order."
        )
        return Finding("order", "note", words, {**values, "field": "kinked"})
    words = (
        f"Not even Euler's method converges at its order ({listed}): the field jumps, or its "
        f"features are finer than {STEPS[-1]} steps."
    )
    return Finding("order", "bad", words, {**values, "field": "not resolved"})


def _observed(subject: Subject, solver: str) -> float | None:
    """The median order over inputs at the finest resolution above round-off; None without any.

    Stops early where the order has settled.
    """
    inputs, found = subject.few(INPUTS), list[float]()
    before = _final(subject, solver, STEPS[0], inputs)
    last: np.ndarray | None = None
    for steps in STEPS[1:]:
        if find(solver).evaluations(steps) > MOST:
            break
        fine = _final(subject, solver, steps, inputs)
        if before is None or fine is None:
            before, last = fine, None
            continue
        apart = worst_error(before, fine, floors_of(fine))
        before = fine
        if not np.isfinite(apart).all() or float(np.median(apart)) < ROUND_OFF:
            last = None
            continue
        if last is not None:
            clear = (last > ROUND_OFF) & (apart > ROUND_OFF)
            if not clear.any():
                break
            found.append(float(np.median(np.log2(last[clear] / apart[clear]))))
            if len(found) > 1 and abs(found[-1] - found[-2]) < STEADY:
                break
        last = apart
    return found[-1] if found else None


def _final(
    subject: Subject, solver: str, steps: int, inputs: Inputs
) -> dict[str, np.ndarray] | None:
    """Final states whose first axis is the batch, else outputs."""
    try:
        outcome = subject.evaluator.run(subject.plan(solver, steps), inputs, "float64")
    except OdeDeployError:
        return None
    count = min(INPUTS, subject.count)
    states = {name: y for name, y in outcome.states.items() if y.shape[:1] == (count,)}
    return states or outcome.outputs
