"""Derivatives inside the vector field, and noise."""

from __future__ import annotations

import torch
from pattern_base import Built, Conditioned, Field, Model, mlp, pattern, rows, unit
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

Pair = tuple[Tensor, Tensor]


@pattern("continuous normalizing flow, exact divergence by autograd.grad")
def exact_divergence() -> Built:
    def forward(m: Model, y: Tensor) -> dict[str, Tensor]:
        def field(t: Tensor, state: Pair) -> Pair:
            with torch.enable_grad():
                x = state[0].requires_grad_(True)
                slope = m.net(t, x)
                trace = sum(
                    torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i]
                    for i in range(x.shape[1])
                )
            return slope, -trace.view(x.shape[0], 1)

        start = (y, torch.zeros(y.shape[0], 1))
        z, logp = odeint_adjoint(field, start, unit(), adjoint_params=tuple(m.parameters()))
        return {"z": z[-1], "logp": logp[-1]}

    return Model(forward, net=Field()), rows()


@pattern("Hutchinson's divergence with the noise as an input")
def hutchinson() -> Built:
    def forward(m: Model, y: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        def field(t: Tensor, state: Pair) -> Pair:
            with torch.set_grad_enabled(True):
                x = state[0]
                x.requires_grad_(True)
                slope = m.net(t, x)
                product = torch.autograd.grad(slope, x, c, create_graph=True)[0]
            return slope, -(product * c).sum(1)

        z, logp = odeint(field, (y, y.new_zeros(y.shape[0])), unit())
        return z[-1], logp[-1]

    return Conditioned(forward, net=Field()), {**rows(), "c": torch.randn(8, 3).sign()}


@pattern("Hamiltonian network")
def hamiltonian() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        def field(t: Tensor, x: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x.requires_grad_()
                slope = torch.autograd.grad(m.energy(x).sum(), x, create_graph=True)[0]
            q, p = slope.chunk(2, 1)
            return torch.cat([p, -q], 1)

        return odeint(field, y, torch.linspace(0, 1, 4))

    return Model(forward, energy=mlp(4, 1)), rows(4)


@pattern("Lagrangian network: second derivatives")
def lagrangian() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        def field(t: Tensor, x: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                q, v = x[:, :1], x[:, 1:]
                energy = 0.5 * v**2 + 0.1 * m.net(torch.cat([q, v], 1))
                first = torch.autograd.grad(energy.sum(), x, create_graph=True)[0]
                second = torch.autograd.grad(first[:, 1].sum(), x)[0]
            force = first[:, :1] - second[:, :1] * v
            return torch.cat([v, force / second[:, 1:]], 1)

        return odeint(field, y, unit())[-1]

    return Model(forward, net=mlp(2, 1)), rows(2)


@pattern("gradient flow of `x.detach().requires_grad_()`")
def gradient_flow() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        def field(t: Tensor, x: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return -torch.autograd.grad(m.energy(x).sum(), x)[0]

        return odeint(field, y, unit())[-1]

    return Model(forward, energy=mlp(3, 1)), rows()


@pattern("gradients without `enable_grad`, as in training")
def gradient_as_in_training() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        def field(t: Tensor, x: Tensor) -> Tensor:
            x.requires_grad_(True)
            return -torch.autograd.grad(m.energy(x).sum(), x, create_graph=True)[0]

        return odeint(field, y, unit())[-1]

    return Model(forward, energy=mlp(3, 1)), rows()


@pattern("functional derivatives: torch.func.jvp")
def functional_derivative() -> Built:
    def forward(m: Model, y: Tensor, c: Tensor) -> Tensor:
        def field(t: Tensor, state: Pair) -> Pair:
            return torch.func.jvp(lambda x: m.net(t, x), (state[0],), (state[1],))

        return odeint(field, (y, c), unit())[1][-1]

    return Conditioned(forward, net=Field()), {**rows(), "c": torch.randn(8, 3)}


@pattern("torch.func.vmap and jacrev: the trace of the Jacobian of every sample")
def jacobian_per_sample() -> Built:
    def forward(m: Model, y: Tensor) -> tuple[Tensor, Tensor]:
        def field(t: Tensor, state: Pair) -> Pair:
            jacobian = torch.func.vmap(torch.func.jacrev(m.net))(state[0])
            return m.net(state[0]), jacobian.diagonal(dim1=1, dim2=2).sum(1)

        z, logp = odeint(field, (y, y.new_zeros(y.shape[0])), unit())
        return z[-1], logp[-1]

    return Model(forward, net=mlp(3, 3)), rows()


@pattern("noise drawn in forward, held fixed by a seed", noise="fixed")
def noise_in_forward() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        start = torch.cat([y, 0.3 * torch.randn(y.shape[0], 2)], 1)
        return m.head(odeint(m.field, start, unit())[-1])

    return Model(forward, field=Field(5), head=nn.Linear(5, 2)), rows()


@pattern("noise drawn in forward, given as an input", noise="input")
def noise_as_input() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        mean, spread = m.encoder(y).chunk(2, 1)
        start = mean + torch.randn_like(spread) * spread.exp()
        return odeint(m.field, start, unit())[-1]

    return Model(forward, field=Field(2), encoder=nn.Linear(3, 4)), rows()
