"""zuko: ``odeint``, which its continuous flows (CNF, FFJTransform) sample and score with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import zuko.utils
from torch import Tensor

from odedeploy.executor import States
from odedeploy.frontends.interception import Hook, SolveCall, call_site, check_shapes

SIGNATURE = inspect.signature(zuko.utils.odeint)


def hooks() -> Sequence[Hook]:
    """The solver function of zuko, adaptive Dormand–Prince."""
    return (Hook("zuko.utils.odeint", zuko.utils.odeint, _translate),)


def _translate(args: tuple[Any, ...], kwargs: dict[str, Any]) -> SolveCall:
    given = SIGNATURE.bind(*args, **kwargs).arguments
    f, x, location = given["f"], given["x"], call_site()
    single = isinstance(x, Tensor)
    initial = (x,) if single else tuple(x)
    like = {"dtype": initial[0].dtype, "device": initial[0].device}
    ends = [torch.as_tensor(given[name], **like) for name in ("t0", "t1")]
    tolerances = {name: given[name] for name in ("atol", "rtol") if name in given}

    def field(t: Tensor, states: States) -> States:
        derivative = f(t, *states)
        derivatives = (derivative,) if single else tuple(derivative)
        check_shapes(derivatives, states, location)
        return derivatives

    def run(observe: Callable[[], None]) -> States:
        def observed(t: Tensor, *states: Tensor) -> Any:
            observe()
            return f(t, *states)

        final = zuko.utils.odeint(observed, x, *ends, **tolerances)
        finals = (final,) if single else final
        return tuple(torch.stack(pair) for pair in zip(initial, finals, strict=True))

    def wrap(trajectories: States) -> Any:
        finals = tuple(trajectory[-1] for trajectory in trajectories)
        return finals[0] if single else finals

    return SolveCall(
        field=field, initial=initial, times=torch.stack(ends), method="dopri45", run=run,
        wrap=wrap, location=location,
    )
