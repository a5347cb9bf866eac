"""The two synthetic models of the planner's table: one smooth, one stiff, both seeded."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

SAMPLES = 2048


class Solved(nn.Module):
    """y(1) of dy/dt = field(t, y) from y(0) = state, by adaptive dopri5 at ``tolerance``."""

    def __init__(self, field: nn.Module, tolerance: float = 1e-5) -> None:
        super().__init__()
        self.field = field
        self.tolerance = tolerance

    def forward(self, state: Tensor) -> Tensor:
        times = torch.tensor([0.0, 1.0], dtype=state.dtype)
        options = {"rtol": self.tolerance, "atol": self.tolerance}
        return odeint(self.field, state, times, method="dopri5", **options)[-1]


class Smooth(nn.Module):
    """f(t, y): a SiLU network of y (batch, 8) and of the phase 2πt."""

    def __init__(self, width: int = 8, hidden: int = 64, strength: float = 2.5) -> None:
        super().__init__()
        self.enter = nn.Linear(width + 2, hidden)
        self.middle = nn.Linear(hidden, hidden)
        self.leave = nn.Linear(hidden, width)
        for layer in (self.enter, self.middle, self.leave):
            nn.init.orthogonal_(layer.weight, gain=strength if layer is self.leave else 1.7)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        phase = torch.stack([torch.sin(2 * math.pi * t), torch.cos(2 * math.pi * t)])
        h = torch.cat([y, phase.expand(len(y), 2)], dim=1)
        h = nn.functional.silu(self.middle(nn.functional.silu(self.enter(h))))
        return self.leave(h) - y


class Stiff(nn.Module):
    """f(t, y): diffusion of y (batch, 1, 32) along its 32 cells, and a small convolutional source.

    The diffusion's eigenvalues are −4κ sin²(kπ/66), real and between −0.14 and −60.
    """

    def __init__(self, diffusivity: float = 15.0, channels: int = 8) -> None:
        super().__init__()
        self.spread = nn.Conv1d(1, 1, kernel_size=3, padding=1)
        self.enter = nn.Conv1d(1, channels, kernel_size=3, padding=1)
        self.leave = nn.Conv1d(channels, 1, kernel_size=3, padding=1)
        with torch.no_grad():
            self.spread.weight.copy_(diffusivity * torch.tensor([[[1.0, -2.0, 1.0]]]))
            self.spread.bias.zero_()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.spread(y) + 4 * self.leave(torch.tanh(2 * self.enter(y)))


def smooth() -> tuple[nn.Module, dict[str, np.ndarray]]:
    return _seeded(Smooth, (8,))


def stiff() -> tuple[nn.Module, dict[str, np.ndarray]]:
    return _seeded(Stiff, (1, 32))


def _seeded(field: type[nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, dict]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Solved(field()).eval()
    states = np.random.default_rng(0).standard_normal((SAMPLES, *shape), dtype=np.float32)
    return model, {"state": states}
