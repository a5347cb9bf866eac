"""torchdyn: ``odeint``, and thereby ``NeuralODE``, whatever its sensitivity method.

A solve delivers the solution at ``t_span``; the further points that an interpolated adjoint stores
for its backward pass are left out.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchdyn import numerics
from torchdyn.numerics.solvers.ode import (
    AsynchronousLeapfrog,
    Euler,
    Midpoint,
    RungeKutta4,
    str_to_solver,
)

from odedeploy.errors import CaptureRefused
from odedeploy.executor import Field, States
from odedeploy.frontends.interception import Hook, SolveCall, call_site, check_shapes, refused

SIGNATURE = inspect.signature(numerics.odeint)
LINEAR = (Euler, Midpoint, RungeKutta4)
"""The fixed-step methods that only take linear combinations of evaluations."""

ADAPTIVE = ("atol", "rtol", "interpolator", "seminorm")
SYMPLECTIC = (
    "a symplectic method splits its state, so it is no plain ODE solve; use odeint with a "
    "Runge-Kutta method instead."
)
OTHERS = {
    "odeint_hybrid": "the solve jumps at events, which depend on the state; solve up to fixed "
    "times with odeint instead.",
    "odeint_mshooting": "multiple shooting iterates until it converges; use odeint instead.",
    "odeint_symplectic": SYMPLECTIC,
}


def hooks() -> Sequence[Hook]:
    """The solver functions of torchdyn."""
    others = [
        refused(f"torchdyn.{name}", getattr(numerics, name), why) for name, why in OTHERS.items()
    ]
    return (Hook("torchdyn.odeint", numerics.odeint, _translate), *others)


def _translate(args: tuple[Any, ...], kwargs: dict[str, Any]) -> SolveCall:
    given = SIGNATURE.bind(*args, **kwargs).arguments
    f, x, location = given["f"], given["x"], call_site()
    if not isinstance(x, Tensor):
        raise CaptureRefused(
            f"{location}: the state is a {type(x).__name__}; give odeint one tensor."
        )
    if len(given.get("save_at", ())):
        raise CaptureRefused(
            f"{location}: save_at keeps a part of the times; index the trajectory instead."
        )
    times = torch.cat(given["t_span"]) if isinstance(given["t_span"], list) else given["t_span"]
    solver = given["solver"]
    solver = str_to_solver(solver, x.dtype) if isinstance(solver, str) else solver
    if isinstance(solver, AsynchronousLeapfrog):
        raise CaptureRefused(f"{location}: {SYMPLECTIC}")
    adaptive = solver.stepping_class == "adaptive"
    settings = {name: given[name] for name in ADAPTIVE if name in given} if adaptive else {}

    def field(t: Tensor, states: States) -> States:
        derivatives = (f(t, states[0]),)
        check_shapes(derivatives, states, location)
        return derivatives

    def run(observe: Callable[[], None]) -> States:
        def observed(t: Tensor, x: Tensor) -> Any:
            observe()
            return f(t, x)

        return (numerics.odeint(observed, x, times, copy.copy(solver), **settings)[1],)

    def wrap(trajectories: States) -> Any:
        return torch.where(times[1] < times[0], -times, times), trajectories[0]

    return SolveCall(
        field=field, initial=(x,), times=times, method=type(solver).__name__, run=run, wrap=wrap,
        kept=None if adaptive else _fixed_step(solver, location), location=location,
    )


def _fixed_step(solver: Any, location: str) -> Callable[[Field, States, Tensor], States]:
    """``sync_device_dtype`` changes a solver in place, so a copy of it steps."""

    def kept(field: Field, initial: States, times: Tensor) -> States:
        if type(solver) not in LINEAR:
            raise CaptureRefused(
                f"{location}: the fixed-step method {type(solver).__name__} is not a linear "
                f"combination of evaluations; use {', '.join(c.__name__ for c in LINEAR)}, or an "
                "adaptive one, which is planned anew."
            )

        def function(t: Tensor, x: Tensor) -> Tensor:
            return field(t.to(x.dtype), (x,))[0]

        return (numerics.odeint(function, initial[0], times, copy.copy(solver))[1],)

    return kept
