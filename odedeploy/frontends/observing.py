"""What happens inside a solve: where the field is evaluated, and how an adaptive solver steps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from odedeploy.executor import States, solve
from odedeploy.frontends.evaluation import TorchEvaluator
from odedeploy.frontends.gradients import own_gradients
from odedeploy.frontends.interception import SolveCall
from odedeploy.frontends.intervals import along
from odedeploy.graph import Inputs
from odedeploy.program import Plan


class Visits(NamedTuple):
    """The n evaluations of one solve, in execution order.

    ``times`` has shape (n,); ``states`` and ``slopes`` have shape (n, rows, entries), the tensors
    of a state side by side. Rows are those of the state's first axis.
    """

    times: np.ndarray
    states: np.ndarray
    slopes: np.ndarray


def visits(evaluator: TorchEvaluator, plan: Plan, inputs: Inputs) -> dict[str, Visits]:
    """Where ``plan`` evaluates the fields of ``inputs``, and what it finds, by site; float32.

    All inputs run at once.
    """
    remaining = iter(plan.solves)
    found: dict[str, Visits] = {}

    def handle(call: SolveCall) -> States:
        chosen = next(remaining)
        field = own_gradients(call.field)
        seen: list[tuple[Tensor, Tensor]] = []

        def noted(t: Tensor, states: States) -> States:
            slopes = field(t, states)
            seen.append((_rows(states), _rows(slopes)))
            return slopes

        with torch.no_grad():
            trajectories = solve(chosen.program, noted, call.initial)
        states, slopes = (torch.stack(part).numpy() for part in zip(*seen, strict=True))
        found[chosen.site] = Visits(np.array(chosen.program.times), states, slopes)
        return trajectories

    evaluator.forward(inputs, "float32", along(evaluator.ways, handle))
    return found


def accepted(
    evaluator: TorchEvaluator, inputs: Inputs, tol: float, rows: int
) -> list[list[np.ndarray]]:
    """Step boundaries that torchdiffeq's dopri5 accepts at rtol = atol = ``tol``, in float32.

    One list per solve, in the order of the model's calls, of one array for every ``rows`` inputs,
    which are stepped through together.
    """
    found: dict[int, list[np.ndarray]] = {}
    for part in evaluator.parts(inputs, rows):
        places = count()

        def handle(call: SolveCall, places: Iterator[int] = places) -> States:
            times, trajectories = _stepped(call, tol)
            found.setdefault(next(places), []).append(times)
            return trajectories

        evaluator.forward(part, "float32", along(evaluator.ways, handle))
    return list(found.values())


def _stepped(call: SolveCall, tol: float) -> tuple[np.ndarray, States]:
    field = own_gradients(call.field)
    times = call.times.detach().to(call.initial[0].dtype)
    first, last = float(times[0]), float(times[-1])
    direction = 1.0 if last > first else -1.0
    ends = [first]

    class Noted(nn.Module):
        def forward(self, t: Tensor, states: States) -> States:
            return field(t, states)

        def callback_accept_step(self, t0: Tensor, y0: object, dt: Tensor) -> None:
            ends.append(float(t0) + direction * float(dt))

    with torch.no_grad():
        trajectories: States = odeint(
            Noted(), call.initial, times, rtol=tol, atol=tol, method="dopri5"
        )
    inside = [t for t in ends if direction * (last - t) > 0]
    return np.array([*inside, last]), trajectories


def _rows(states: States) -> Tensor:
    alike = len({y.shape[:1] for y in states}) == 1 and states[0].ndim
    rows = len(states[0]) if alike else 1
    return torch.cat([y.reshape(rows, -1) for y in states], dim=1)
