"""torchdiffeq: ``odeint`` and ``odeint_adjoint``, of the package and of copies of it in projects.

The adjoint only changes how gradients are computed, so both are the same solve here. A copy is any
module with such a function beside torchdiffeq's table of solvers; it is caught with its own code.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from odedeploy.errors import CaptureRefused
from odedeploy.executor import Field, States
from odedeploy.frontends.events import fixed_time
from odedeploy.frontends.interception import Hook, Rewritten, SolveCall, call_site, check_shapes

SETTINGS = ("rtol", "atol", "method", "options")
"""Arguments that the solution depends on; the others concern events and gradients."""


def hooks() -> Iterator[Hook | Rewritten]:
    """The solver functions of torchdiffeq and of every imported copy of it."""
    for function, odeint in _solver_functions():
        key = f"{function.__module__}.{function.__name__}"
        yield Hook(key, function, partial(_translate, odeint, inspect.signature(function)))
        dense = function.__globals__.get("odeint_dense")
        if function is odeint and isinstance(dense, FunctionType):
            yield Rewritten(f"{key}_dense", dense, partial(_dense, odeint))


def _dense(odeint: FunctionType, func: Any, y0: Any, t0: Any, t1: Any, **settings: Any) -> Any:
    """The solution as a function of a time: every time that it is asked for is a solve."""

    def solution(t: Any) -> Any:
        times = torch.stack([torch.as_tensor(t0), torch.as_tensor(t).to(torch.as_tensor(t0))])
        return odeint(func, y0, times, **settings)[-1]

    return solution


def _solver_functions() -> Iterator[tuple[FunctionType, FunctionType]]:
    """Each solver function once, with the ``odeint`` that it stands for.

    Every module that defines ``odeint_adjoint`` has ``odeint`` beside it.
    """
    seen: set[int] = set()
    for module in list(sys.modules.values()):
        members = getattr(module, "__dict__", {})
        if "odeint" not in members:
            continue
        for function in (members["odeint"], members.get("odeint_adjoint")):
            if isinstance(function, FunctionType) and id(function) not in seen:
                seen.add(id(function))
                odeint = function.__globals__.get("odeint")
                if isinstance(odeint, FunctionType) and _is_torchdiffeq(function, odeint):
                    yield function, odeint


def _is_torchdiffeq(function: FunctionType, odeint: FunctionType) -> bool:
    return (
        "dopri5" in odeint.__globals__.get("SOLVERS", ())
        and function.__closure__ is None
        and set(inspect.signature(function).parameters) >= {"func", "y0", "t", *SETTINGS}
    )


def _translate(
    odeint: FunctionType,
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> SolveCall:
    location = call_site()
    given = _bound(signature, args, kwargs, location)
    func, y0, times = given["func"], given["y0"], torch.as_tensor(given["t"])
    solver = {name: given[name] for name in SETTINGS if name in given}
    method = solver.get("method") or "dopri5"
    options = dict(solver.get("options") or {})
    single = isinstance(y0, Tensor)
    initial = (y0,) if single else tuple(y0)
    event = given.get("event_fn")
    if event is not None:
        times = _up_to_event(event, times, None if single else len(initial), location)

    def field(t: Tensor, states: States) -> States:
        derivative = func(t, states[0] if single else states)
        derivatives = (derivative,) if single else tuple(derivative)
        check_shapes(derivatives, states, location)
        return derivatives

    def wrap(trajectories: States) -> Any:
        solution = trajectories[0] if single else trajectories
        return solution if event is None else (times[-1].to(given["t"]), solution)

    def run(observe: Callable[[], None]) -> States:
        def observed(t: Tensor, y: Any) -> Any:
            observe()
            return func(t, y)

        solution = odeint(observed, y0, times, **solver)
        return (solution,) if single else tuple(solution)

    kept = _fixed_step(odeint, method, options, func, y0, times)
    if kept is not None and event is not None:
        raise CaptureRefused(
            f"{location}: a fixed-step solve stops at an event between its steps; solve up to the "
            "time of the event, or use an adaptive method."
        )
    jumps = None if kept is not None else options.get("jump_t")
    return SolveCall(
        field=field, initial=initial, times=times, method=method, run=run, wrap=wrap, kept=kept,
        location=location, jumps=None if jumps is None else torch.as_tensor(jumps),
    )


def _up_to_event(event: Any, times: Tensor, tensors: int | None, location: str) -> Tensor:
    time = fixed_time(event, times, tensors)
    if time is None:
        raise CaptureRefused(
            f"{location}: the solve stops at an event, which depends on the state; "
            "export the part up to a fixed time instead."
        )
    return torch.tensor([float(times[0]), time], dtype=torch.float64)


def _fixed_step(
    odeint: FunctionType, method: str, options: dict[str, Any], func: Any, y0: Any, times: Tensor
) -> Any:
    solver = odeint.__globals__["SOLVERS"].get(method)
    if "FixedGridODESolver" not in {base.__name__ for base in getattr(solver, "__mro__", ())}:
        return None
    options.pop("norm", None)
    constructor = options.get("grid_constructor")
    if constructor is not None:
        options["grid_constructor"] = lambda *_: constructor(func, y0, times)

    def kept(field: Field, initial: States, times: Tensor) -> States:
        def function(t: Tensor, y: Tensor) -> Tensor:
            return field(t.to(y.dtype), (y,))[0]

        return (odeint(function, initial[0], times, method=method, options=dict(options)),)

    return kept


def _bound(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any], location: str
) -> dict[str, Any]:
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise CaptureRefused(f"{location}: odeint was called with {error}.") from error
