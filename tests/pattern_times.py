"""The times of a solve."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from pattern_base import Built, Conditioned, Field, Model, Solver, pattern, rows, unit
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint


@pattern("time runs backwards")
def reversed_time() -> Built:
    return Solver(odeint, times=(1.0, 0.0)), rows()


@pattern("there and back: forward and inverse of one flow")
def there_and_back() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        there = odeint(m.field, y, unit())[-1]
        return odeint(m.field, there + 0.1, unit().flip(0))[-1]

    return Model(forward, field=Field()), rows()


@pattern("a trajectory at non-uniform times")
def nonuniform_trajectory() -> Built:
    return Solver(odeint, times=(0.0, 0.1, 0.15, 0.9, 1.0), last=False), rows()


@pattern("a decreasing, non-uniform trajectory that does not end at zero")
def decreasing_trajectory() -> Built:
    return Solver(odeint, times=(2.0, 1.5, 1.4, 0.25), last=False), rows()


@pattern("one time of a trajectory")
def middle_of_trajectory() -> Built:
    class Middle(Solver):
        def forward(self, y: Tensor) -> Tensor:
            return self.solve(self.field, y, torch.linspace(0, 2, 5))[2]

    return Middle(odeint), rows()


@pattern("times built inside forward from Python numbers and NumPy")
def times_built_in_forward() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        steps = np.linspace(0, 1, y.shape[1] + 1, dtype=np.float32)
        t = torch.cat([torch.zeros(1), torch.from_numpy(steps[1:]) ** 2])
        return odeint(m.field, y, t)[1:].permute(1, 0, 2)

    return Model(forward, field=Field()), rows()


@pattern("integer times kept on the model, cast to the state's type")
def integer_times() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        m.span = m.span.type_as(y)
        return odeint(m.field, y, m.span)[-1]

    model = Model(forward, field=Field())
    model.span = torch.tensor([0, 1])
    return model, rows()


@pattern("float64 times and a float32 state")
def double_times() -> Built:
    times = torch.linspace(0, 1, 3, dtype=torch.float64)
    return Model(lambda m, y: odeint(m.field, y, times)[-1], field=Field()), rows()


@pattern("the end time is a trained parameter")
def learned_end_time() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        return odeint(m.field, y, torch.cat([torch.zeros(1), m.end.abs()]))[-1]

    return Model(forward, field=Field(), end=nn.Parameter(torch.tensor([1.3]))), rows()


@pattern("every sample has a span of its own, by rescaling time")
def span_per_sample() -> Built:
    def forward(m: Model, y: Tensor, c: Tensor) -> Tensor:
        return odeint(lambda s, x: m.net(torch.cat([x, s * c], 1)) * c, y, unit())[-1]

    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    return Conditioned(forward, net=net), {**rows(), "c": torch.rand(8, 1) + 0.5}


@pattern("a fixed-step trajectory on its own output times")
def one_step_per_interval() -> Built:
    times = (0.0, 0.2, 0.5, 1.0)
    return Solver(partial(odeint, method="heun2"), times=times, last=False), rows()


@pattern("output times as an input of the model", static=("c",))
def times_as_an_input() -> Built:
    def forward(m: Model, y: Tensor, c: Tensor) -> Tensor:
        return odeint(m.field, y, c)

    return Conditioned(forward, field=Field()), {**rows(), "c": torch.tensor([0.1, 0.5, 0.7, 1.3])}


@pattern("only the end time is an input, a single number, and time runs backwards", static=("c",))
def end_time_as_an_input() -> Built:
    def forward(m: Model, y: Tensor, c: Tensor) -> Tensor:
        return odeint_adjoint(m.field, y, torch.stack([c, torch.zeros(())]))[-1]

    return Conditioned(forward, field=Field()), {**rows(), "c": torch.tensor(0.9)}


@pattern("times computed from an input: differences, cast, normalised", static=("c",))
def times_computed_from_an_input() -> Built:
    def forward(m: Model, y: Tensor, c: Tensor) -> Tensor:
        t = ((c - c[0]) / (c[-1] - c[0])).type_as(y)
        z, energy = odeint(
            lambda t, s: (m.field(t, s[0]), (s[0] ** 2).sum(1)), (y, y.new_zeros(len(y))), t
        )
        return z[-1] + energy[1][:, None]

    times = torch.tensor([0.5, 1.5, 2.75], dtype=torch.float64)
    return Conditioned(forward, field=Field()), {**rows(), "c": times}


@pattern("ODE-RNN: observations at times that are an input", static=("c",))
def observation_times_as_an_input() -> Built:
    def forward(m: Model, y: Tensor, c: Tensor) -> Tensor:
        h = torch.zeros(y.shape[0], 3)
        for i in range(y.shape[1]):
            h = odeint(m.field, h, c[i : i + 2])[-1]
            h = m.cell(y[:, i], h)
        return h

    times = torch.tensor([0.1, 0.4, 1.2, 1.6])
    return Conditioned(forward, field=Field(), cell=nn.GRUCell(2, 3)), {**rows(3, 2), "c": times}


@pattern("a fixed-step trajectory on output times that are an input", static=("c",))
def fixed_steps_between_input_times() -> Built:
    def forward(m: Model, y: Tensor, c: Tensor) -> Tensor:
        return odeint(m.field, y, c, method="rk4")

    return Conditioned(forward, field=Field()), {**rows(), "c": torch.tensor([0.1, 0.5, 0.7, 1.3])}

