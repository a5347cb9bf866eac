"""Small vector fields that take time in every way that models do, captured. ``FIELDS`` by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from odedeploy import api
from odedeploy.graph import OdeGraph


class Solve(nn.Module):
    """x → the state at t = 1 of dy/dt = field(t, y), y(0) = x."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = odeint(self.field, x, torch.tensor([0.0, 1.0]), method="dopri5")[-1]
        return out


class Autonomous(nn.Module):
    def __init__(self, extra: int = 0) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4 + extra, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.net(y)
        return out


class Concatenated(Autonomous):
    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return super().forward(t, torch.cat([y, torch.ones_like(y[:, :1]) * t], 1))


class Embedded(nn.Module):
    """t is expanded to the batch before its sinusoidal embedding, which scales and shifts."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 32))
        self.enter, self.leave = nn.Linear(4, 16), nn.Linear(16, 4)
        self.norm = nn.LayerNorm(32)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        phase = t.expand(y.shape[0])[:, None] * torch.tensor([1.0, 3.0, 9.0])
        embedded = self.embedding(torch.cat([phase.sin(), phase.cos()], 1))
        scale, shift = torch.softmax(self.norm(embedded), 1).chunk(2, 1)
        out: Tensor = self.leave(torch.tanh(self.enter(y) * (1 + scale) + shift))
        return out


class Shifted(nn.Module):
    """An embedding of t that is added to the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(1, 16)
        self.enter, self.leave = nn.Linear(4, 16), nn.Linear(16, 4)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        embedded = torch.relu(self.embedding(t.reshape(1, 1).expand(y.shape[0], 1)))
        out: Tensor = self.leave(torch.tanh(self.enter(y) + embedded))
        return out


class ConcatSquash(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 16), nn.Linear(16, 4)])
        self.gates = nn.ModuleList([nn.Linear(1, 16), nn.Linear(1, 4)])
        self.shifts = nn.ModuleList([nn.Linear(1, 16, bias=False), nn.Linear(1, 4, bias=False)])

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        t = t.view(1, 1).expand(y.shape[0], 1)
        for layer, gate, shift in zip(self.layers, self.gates, self.shifts, strict=True):
            y = torch.tanh(layer(y) * torch.sigmoid(gate(t)) + shift(t))
        return y


class Convolutional(nn.Module):
    """Norm, ReLU, convolution beside the time; some factors of the norm are negative on request."""

    def __init__(self, signs: float = 0.0) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(2, 4), nn.Conv2d(5, 4, 3, padding=1)
        self.norm.weight.data = torch.linspace(0.5 - signs, 1.5, 4)
        self.norm.bias.data = torch.linspace(-0.3, 0.3, 4)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        y = torch.relu(self.norm(y))
        out: Tensor = self.conv(torch.cat([torch.ones_like(y[:, :1]) * t, y], 1))
        return out


FIELDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "autonomous": (Autonomous, (4,)),
    "concatenated": (Concatenated, (4,)),
    "embedded": (Embedded, (4,)),
    "shifted": (Shifted, (4,)),
    "concatsquash": (ConcatSquash, (4,)),
    "convolutional": (Convolutional, (4, 5, 5)),
    "signed": (lambda: Convolutional(1.0), (4, 5, 5)),
}
"""Name → the field and the shape of one input."""


def module(name: str) -> Solve:
    torch.manual_seed(0)
    return Solve(FIELDS[name][0]()).eval()


def inputs(name: str, rows: int) -> dict[str, np.ndarray]:
    shape = (rows, *FIELDS[name][1])
    return {"x": np.random.default_rng(rows).standard_normal(shape).astype(np.float32)}


@cache
def graph(name: str) -> OdeGraph:
    return api.capture(module(name), inputs(name, 8))
