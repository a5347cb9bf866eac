"""How the solver is reached, and how often."""

from __future__ import annotations

from functools import partial

import torch
import torchdiffeq
from pattern_base import Built, Conditioned, Field, Model, Solver, mlp, pattern, rows, unit
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint
from torchdiffeq import odeint_adjoint as renamed


@pattern("`from torchdiffeq import odeint`")
def name_bound_at_import() -> Built:
    return Solver(odeint), rows()


@pattern("`from torchdiffeq import odeint_adjoint`")
def adjoint() -> Built:
    return Solver(odeint_adjoint), rows()


@pattern("`odeint_adjoint as odeint`")
def adjoint_renamed() -> Built:
    return Solver(renamed), rows()


@pattern("`torchdiffeq.odeint(...)`")
def module_attribute() -> Built:
    return Solver(lambda f, y, t: torchdiffeq.odeint(f, y, t, rtol=1e-4, atol=1e-4)), rows()


@pattern("a partial of the solver, method and tolerances given")
def partial_of_solver() -> Built:
    return Solver(partial(odeint, method="dopri8", rtol=1e-5, atol=1e-5)), rows()


@pattern("keyword arguments only")
def keyword_arguments() -> Built:
    return Solver(lambda f, y, t: odeint(func=f, y0=y, t=t, method="bosh3")), rows()


@pattern("the import inside a function")
def imported_inside() -> Built:
    def solve(f: nn.Module, y: Tensor, t: Tensor) -> Tensor:
        from torchdiffeq import odeint as local

        return local(f, y, t)

    return Solver(solve), rows()


@pattern("odeint or odeint_adjoint by a flag, options of the adjoint")
def chosen_by_a_flag() -> Built:
    def solve(f: nn.Module, y: Tensor, t: Tensor) -> Tensor:
        options = {"adjoint_rtol": 1e-3, "adjoint_options": {"norm": "seminorm"}}
        return odeint_adjoint(f, y, t, rtol=1e-6, atol=1e-6, **options)

    return Solver(solve), rows()


@pattern("options of an adaptive method: norm, first step, safety")
def adaptive_options() -> Built:
    options = {"norm": lambda y: y.abs().max(), "first_step": 0.1, "safety": 0.8}
    return Solver(partial(odeint, method="dopri5", options=options, rtol=1e-5)), rows()


@pattern("fixed steps with a step size")
def fixed_steps() -> Built:
    return Solver(partial(odeint, method="rk4", options={"step_size": 0.25})), rows()


@pattern("one Euler step that is the model")
def one_euler_step() -> Built:
    return Solver(partial(odeint, method="euler")), rows()


@pattern("Adams–Bashforth on a grid of its own, output times off it")
def fixed_steps_off_grid() -> Built:
    options = {"step_size": 0.15, "interp": "cubic"}
    solve = partial(odeint, method="explicit_adams", options=options)
    return Solver(solve, times=(0.0, 0.4, 1.0), last=False), rows()


@pattern("a fixed-step solve followed by an adaptive one")
def fixed_and_adaptive() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        y = odeint(m.first, y, unit(), method="midpoint", options={"step_size": 0.5})[-1]
        return odeint(m.second, y, unit())[-1]

    return Model(forward, first=Field(), second=Field()), rows()


@pattern("two solves, one after the other")
def two_solves() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        t = unit()
        return odeint(m.second, odeint(m.first, y, t)[-1].tanh(), t)[-1]

    return Model(forward, first=Field(), second=Field()), rows()


@pattern("the same field in every turn of a loop")
def same_field_in_a_loop() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        states = []
        for start in range(4):
            y = odeint(m.field, y, torch.tensor([start / 4, (start + 1) / 4]))[-1]
            states.append(y)
        return torch.stack(states, 1)

    return Model(forward, field=Field()), rows()


@pattern("ODE-RNN: a GRU cell jumps at every observation")
def ode_rnn() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        hidden = torch.zeros(y.shape[0], 6)
        for i in range(y.shape[1]):
            hidden = odeint(m.field, hidden, torch.tensor([0.5 * i, 0.5 * (i + 1)]))[-1]
            hidden = m.cell(y[:, i], hidden)
        return m.head(hidden)

    return Model(forward, field=Field(6), cell=nn.GRUCell(2, 6), head=nn.Linear(6, 1)), rows(4, 2)


@pattern("jumps only where a mask says there is an observation")
def masked_jumps() -> Built:
    def forward(m: Model, y: Tensor, c: Tensor) -> Tensor:
        hidden = y.new_zeros(len(y), 5)
        for i in range(3):
            hidden = odeint(m.field, hidden, unit() * 0.3)[-1]
            hidden = torch.where(c[:, i : i + 1] > 0, m.cell(y[:, i], hidden), hidden)
        return hidden

    model = Conditioned(forward, field=Field(5), cell=nn.GRUCell(2, 5))
    return model, {**rows(3, 2), "c": (torch.rand(8, 3) > 0.4).float()}


@pattern("the second field reads the first solution")
def solution_as_context() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        first = odeint(m.first, y, torch.linspace(0, 1, 4)).mean(0)
        field = lambda t, x: m.second(t, torch.cat([x, first], 1))  # noqa: E731
        return odeint(field, torch.tanh(y), unit())[-1]

    return Model(forward, first=Field(), second=_Narrow(6, 3)), rows()


class _Narrow(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.net = mlp(inputs, outputs)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


@pattern("latent ODE: recurrent encoder, solve, decoder over the trajectory")
def latent_ode() -> Built:
    def forward(m: Model, y: Tensor) -> dict[str, Tensor]:
        hidden = y.new_zeros(y.shape[0], 8)
        for i in reversed(range(y.shape[1])):
            hidden = m.encoder(y[:, i], hidden)
        mean, spread = m.latent(hidden).chunk(2, dim=1)
        path = odeint(m.field, mean, torch.linspace(0.0, 1.0, 5)).permute(1, 0, 2)
        return {"series": m.decoder(path), "mean": mean, "spread": spread}

    parts = {"encoder": nn.GRUCell(2, 8), "latent": nn.Linear(8, 6), "decoder": mlp(3, 2)}
    return Model(forward, field=Field(3), **parts), rows(5, 2)


@pattern("no solve at all: an ordinary network")
def no_solve() -> Built:
    return Model(lambda m, y: m.net(y), net=mlp(3, 2)), rows()
