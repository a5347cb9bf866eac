"""torchdiffeq: ``odeint`` and ``odeint_adjoint``.

The adjoint only changes how gradients are computed, so both are the same solve here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchdiffeq
from torch import Tensor
from torchdiffeq._impl.solvers import FixedGridODESolver

from odedeploy.errors import CaptureRefused
from odedeploy.executor import Field, States
from odedeploy.frontends.interception import Hook, SolveCall, call_site

SETTINGS = ("rtol", "atol", "method", "options")
"""Arguments that the solution depends on; the others concern events and gradients."""


def _odeint(*args, **kwargs):  # type: ignore[no-untyped-def]
    from odedeploy.frontends.interception import dispatch

    return dispatch("torchdiffeq.odeint", args, kwargs)


def _odeint_adjoint(*args, **kwargs):  # type: ignore[no-untyped-def]
    from odedeploy.frontends.interception import dispatch

    return dispatch("torchdiffeq.odeint_adjoint", args, kwargs)


def hooks() -> Sequence[Hook]:
    """The solver functions of torchdiffeq."""
    return (
        Hook("torchdiffeq.odeint", torchdiffeq.odeint, _odeint, _translate),
        Hook("torchdiffeq.odeint_adjoint", torchdiffeq.odeint_adjoint, _odeint_adjoint, _translate),
    )


def _translate(args: tuple[Any, ...], kwargs: dict[str, Any]) -> SolveCall:
    func, y0, times = _positional(args, kwargs)
    solver = {k: v for k, v in kwargs.items() if k in SETTINGS}
    location = call_site()
    if kwargs.get("event_fn") is not None:
        raise CaptureRefused(
            f"{location}: the solve stops at an event, which depends on the state; "
            "export the part up to a fixed time instead."
        )
    method = solver.get("method") or "dopri5"
    single = isinstance(y0, Tensor)
    initial = (y0,) if single else tuple(y0)

    def field(t: Tensor, states: States) -> States:
        derivative = func(t, states[0] if single else states)
        derivatives = (derivative,) if single else tuple(derivative)
        _check_shapes(derivatives, states, location)
        return derivatives

    def wrap(trajectories: States) -> Any:
        return trajectories[0] if single else trajectories

    def run(observe: Callable[[], None]) -> States:
        def observed(t: Tensor, y: Any) -> Any:
            observe()
            return func(t, y)

        solution = torchdiffeq.odeint(observed, y0, times, **solver)
        return (solution,) if single else tuple(solution)

    return SolveCall(
        field=field, initial=initial, times=times, method=method, run=run, wrap=wrap,
        kept=_fixed_step(method, dict(solver.get("options") or {}), func, y0, times),
        location=location,
    )


def _fixed_step(
    method: str, options: dict[str, Any], func: Any, y0: Any, times: Tensor
) -> Any:
    solver = sys.modules["torchdiffeq._impl.odeint"].SOLVERS.get(method)
    if solver is None or not issubclass(solver, FixedGridODESolver):
        return None
    options.pop("norm", None)
    constructor = options.pop("grid_constructor", None)
    if constructor is not None:
        grid = constructor(func, y0, times)
        options["grid_constructor"] = lambda func, y0, t: grid

    def kept(field: Field, initial: States, times: Tensor) -> States:
        def function(t: Tensor, y: Any) -> Any:
            return field(t, (y,))[0]

        return (
            torchdiffeq.odeint(function, initial[0], times, method=method, options=dict(options)),
        )

    return kept


def _positional(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Tensor]:
    names = ("func", "y0", "t")
    given = dict(zip(names, args, strict=False)) | {k: kwargs[k] for k in names if k in kwargs}
    if missing := [name for name in names if name not in given]:
        raise CaptureRefused(f"{call_site()}: odeint was called without {', '.join(missing)}.")
    return given["func"], given["y0"], torch.as_tensor(given["t"])


def _check_shapes(derivatives: States, states: States, location: str) -> None:
    if len(derivatives) != len(states):
        raise CaptureRefused(
            f"{location}: the vector field returned {len(derivatives)} tensors for a state of "
            f"{len(states)}; return one derivative per state tensor."
        )
    for derivative, state in zip(derivatives, states, strict=True):
        if derivative.shape != state.shape:
            raise CaptureRefused(
                f"{location}: the vector field returned shape {tuple(derivative.shape)} for a "
                f"state of shape {tuple(state.shape)}; they must be equal."
            )
