"""Markers: a solve as operators that carry it, unevaluated, through tracing and export.

At a solve the vector field is evaluated once, symbolically, between ``odedeploy::Time`` and
``odedeploy::State`` at its entrance and ``odedeploy::Solve`` at its exit. What lies on a path
between them is the vector field; what it reads from elsewhere is its context.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from odedeploy.errors import CaptureRefused
from odedeploy.executor import States
from odedeploy.frontends.gradients import own_gradients
from odedeploy.frontends.interception import Handler, SolveCall, intercepted_field

DOMAIN = "odedeploy"
TIME, STATE, SOLVE = "Time", "State", "Solve"


def marker_handler(names: Sequence[str]) -> Handler:
    """A handler that marks the i-th solve of a forward with ``names[i]``.

    Raises CaptureRefused when the forward solves more often than it did before.
    """
    remaining = iter(names)

    def handle(call: SolveCall) -> States:
        site = next(remaining, None)
        if site is None:
            raise CaptureRefused(
                f"{call.location}: the model solves {len(names)} ODEs in one forward and more in "
                "another; make the number of solves independent of the data."
            )
        return _mark(site, call)

    return handle


def _mark(site: str, call: SolveCall) -> States:
    initial = call.initial
    attributes: dict[str, Any] = {"site": site}
    time = torch.onnx.ops.symbolic(
        f"{DOMAIN}::{TIME}", [initial[0]], attributes, dtype=initial[0].dtype, shape=[], version=1
    )
    states = tuple(
        torch.onnx.ops.symbolic(
            f"{DOMAIN}::{STATE}", [y], {**attributes, "index": i},
            dtype=y.dtype, shape=y.shape, version=1,
        )
        for i, y in enumerate(initial)
    )
    with intercepted_field(_refuse_nested):
        derivatives = own_gradients(call.field)(time, states)
    steps = call.times.shape[0]
    return tuple(
        torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::{SOLVE}", [*initial, *derivatives], attributes,
            dtypes=[y.dtype for y in initial], shapes=[[steps, *y.shape] for y in initial],
            version=1,
        )
    )


def _refuse_nested(call: SolveCall) -> States:
    raise CaptureRefused(
        f"{call.location}: a vector field solves another ODE; solve both as one system."
    )
