"""Events that are a time: a solve that stops where a function of time alone changes its sign."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

FIRST = 1e-3
"""How far from the start the sign is looked at first; every next look is twice as far."""

FARTHEST = 1e9


def fixed_time(
    event: Callable[[Tensor, Any], Tensor], times: Tensor, tensors: int | None
) -> float | None:
    """When ``event`` (t, state) first changes its sign, from times[0] in the direction of times[1].

    A state is a tuple of as many ``tensors``, or one tensor. None when the event reads the state,
    or never changes its sign.
    """
    start, direction = float(times[0]), math.copysign(1.0, float(times[1]) - float(times[0]))
    unknown = torch.tensor(math.nan)
    state = unknown if tensors is None else (unknown,) * tensors

    def value(time: float) -> Tensor:
        return torch.as_tensor(event(torch.tensor(time, dtype=torch.float64), state)).detach()

    with disable_proxy_modes_tracing(), unset_fake_temporarily():
        try:
            first = value(start).sign()
            return _crossing(lambda time: float((value(time) * first).min()), start, direction)
        except (IndexError, RuntimeError):
            return None


def _crossing(
    value: Callable[[float], float], start: float, direction: float
) -> float | None:
    """Where ``value``, positive at ``start``, is not positive for the first time."""
    near, step = start, FIRST
    if not value(start) > 0:
        return None
    while value(far := start + direction * step) > 0:
        near, step = far, 2 * step
        if step > FARTHEST:
            return None
    while (middle := (near + far) / 2) not in (near, far):
        near, far = (middle, far) if value(middle) > 0 else (near, middle)
    return far
