"""Options of torchdiffeq, and its other functions."""

from __future__ import annotations

from typing import Any

import torch
from pattern_base import Built, Field, Model, pattern, rows, unit
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_dense, odeint_event


def _switched(m: Model) -> Any:
    """A field that is another one from t = 0.3 on, by a Python branch, and jumps at 0.7."""

    def field(t: Tensor, x: Tensor) -> Tensor:
        slope = m.early(t, x) if t < 0.3 else m.late(t, x)
        return slope + torch.where(t >= 0.7, 2.0, -1.0)

    return field


def _pushed(m: Model) -> Any:
    """A field with a push that begins at t = 0.25."""
    return lambda t, x: m.field(t, x) + 4 * (t > 0.25)


def _fixed(field: Any = lambda m: m.field, **arguments: Any) -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        return odeint(field(m), y, m.times, **arguments)

    return Model(forward, field=Field(), times=torch.tensor([0.0, 0.35, 0.5, 1.0])), rows()


@pattern("jumps of the field at known times: jump_t")
def jumps_in_time() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        times = torch.tensor([0.0, 0.25, 0.5])
        return odeint(_pushed(m), y, times, method="dopri5", options={"jump_t": m.jumps})

    return Model(forward, field=Field(), jumps=torch.tensor([0.25])), rows()


@pattern("two jumps, a Python branch on time, time running backwards")
def jumps_backwards() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        options = {"jump_t": torch.tensor([0.3, 0.7]), "step_t": torch.tensor([0.5])}
        return odeint(_switched(m), y, unit().flip(0), method="dopri5", options=options)[-1]

    return Model(forward, early=Field(), late=Field()), rows()


@pattern("fixed steps that start on the far side of a jump: perturb")
def perturbed_steps() -> Built:
    return _fixed(_pushed, method="rk4", options={"step_size": 0.25, "perturb": True})


@pattern("fixed steps with cubic interpolation between them: interp")
def cubic_interpolation() -> Built:
    return _fixed(method="midpoint", options={"step_size": 0.3, "interp": "cubic"})


@pattern("fixed steps on a grid of the caller's own: grid_constructor")
def own_grid() -> Built:
    def grid(field: Any, y: Tensor, t: Tensor) -> Tensor:
        return torch.linspace(0, 1, 9) ** 2 * t[-1]

    return _fixed(method="heun3", options={"grid_constructor": grid})


@pattern("the solution as a function of time: odeint_dense")
def dense_output() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        solution = odeint_dense(m.field, y, torch.tensor(0.0), torch.tensor(1.0))
        return torch.stack([solution(torch.tensor(t)) for t in (0.3, 0.8)], 1)

    return Model(forward, field=Field()), rows()


@pattern("an event at a fixed time: odeint_event, the event returned and used")
def event_at_a_fixed_time() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        def event(t: Tensor, x: Tensor) -> Tensor:
            return m.end - t

        time, solution = odeint_event(m.field, y, torch.tensor(0.0), event_fn=event)
        return solution[-1] * time

    return Model(forward, field=Field(), end=nn.Parameter(torch.tensor(0.8))), rows()
