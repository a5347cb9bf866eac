"""A complete model of one's own: a damped pendulum field, solved by torchdiffeq."""

import torch
from torch import nn
from torchdiffeq import odeint_adjoint


class Pendulum(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

    def field(self, t, y):
        angle, speed = y[:, :1], y[:, 1:]
        return torch.cat([speed, -torch.sin(angle) - 0.1 * speed], 1) + 0.1 * self.net(y)

    def forward(self, state):
        times = torch.tensor([0.0, 2.0])
        solution = odeint_adjoint(
            self.field, state, times, rtol=1e-6, atol=1e-6, adjoint_params=tuple(self.parameters())
        )
        return solution[-1]


def build():
    torch.manual_seed(0)
    return Pendulum(), torch.randn(1000, 2)
