"""Classifiers of two rings, trained in seconds: one through two Euler steps, one as an ODE."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

ROWS = 300
STEPS = 200


class Rings(nn.Module):
    """Scores of two classes, read off the final state of a planar field."""

    def __init__(self, method: str, steps: int | None, relu: bool = False) -> None:
        super().__init__()
        act = nn.ReLU() if relu else nn.Tanh()
        self.net = nn.Sequential(nn.Linear(3, 32), act, nn.Linear(32, 32), act, nn.Linear(32, 2))
        self.head = nn.Linear(2, 2)
        self.method, self.steps = method, steps

    def field(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(torch.cat([y, t.expand(len(y), 1)], dim=1))

    def forward(self, x: Tensor) -> Tensor:
        options = {} if self.steps is None else {"options": {"step_size": 1 / self.steps}}
        y = odeint(self.field, x, torch.tensor([0.0, 1.0]), method=self.method, **options)
        return self.head(y[-1])


def rings(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points on two rings with noise, and which ring each is on."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (rows,), generator=generator)
    angle = 6.2832 * torch.rand(rows, generator=generator)
    radius = 0.6 + 0.8 * labels + 0.1 * torch.randn(rows, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), labels


@cache
def trained(method: str, steps: int | None = None, relu: bool = False) -> tuple[Rings, Tensor]:
    """The model after ``STEPS`` steps of Adam through its own solver, and held-out inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Rings(method, steps, relu)
    x, labels = rings(ROWS, 0)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(STEPS):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimiser.step()
    return model.eval(), rings(ROWS, 1)[0]


def locked() -> tuple[Rings, Tensor]:
    return trained("euler", 2)


def genuine() -> tuple[Rings, Tensor]:
    return trained("rk4", 8)
