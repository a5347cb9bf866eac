"""The models of the latency benchmarks, trained or not: latency does not know."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from odedeploy import api, executor
from odedeploy.program import Plan

WIDTH = 64


class Solve(nn.Module):
    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = odeint(self.field, x, torch.tensor([0.0, 1.0]), method="dopri5")[-1]
        return out


class Autonomous(nn.Module):
    """2 × 64 hidden units."""

    def __init__(self, extra: int = 0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(WIDTH + extra, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(),
            nn.Linear(WIDTH, WIDTH),
        )  # fmt: skip

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.net(y)
        return out


class Concatenated(Autonomous):
    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([y, torch.ones_like(y[:, :1]) * t], 1))
        return out


class Embedded(nn.Module):
    """t is expanded to the batch, embedded by sines and a small network, and added."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, -4, 16)))
        self.embedding = nn.Sequential(
            nn.Linear(32, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH)
        )
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        phase = t.expand(y.shape[0])[:, None] * self.frequencies[None] * 10
        embedded = self.embedding(torch.cat([phase.sin(), phase.cos()], 1))
        hidden = torch.tanh(self.layers[0](y) + embedded)
        out: Tensor = self.layers[2](torch.tanh(self.layers[1](hidden)))
        return out


MODELS: dict[str, Callable[[], nn.Module] | None] = {
    "mnist-odenet": None,
    "mlp": Autonomous,
    "mlp, time concatenated": Concatenated,
    "mlp, time embedded": Embedded,
}
"""Name → its field; None for a reference model."""


def load(name: str) -> tuple[nn.Module, np.ndarray]:
    """The model and 512 inputs."""
    make = MODELS[name]
    if make is None:
        loaded = api.load_model(name)
        return loaded.module, loaded.inputs["image"][:512]
    torch.manual_seed(0)
    states = np.random.default_rng(0).standard_normal((512, WIDTH)).astype(np.float32)
    return Solve(make()).eval(), states


class FieldAt(nn.Module):
    """The vector field at one time, as an ordinary network of the state."""

    def __init__(self, field: nn.Module, time: float) -> None:
        super().__init__()
        self.field = field
        self.time = time

    def forward(self, state: Tensor) -> Tensor:
        out: Tensor = self.field(torch.tensor(self.time), state)
        return out


class Repeated(nn.Module):
    """The vector field ``count`` times in a row, at times of its own, and nothing else."""

    def __init__(self, field: nn.Module, count: int) -> None:
        super().__init__()
        self.field = field
        self.times = [(i + 0.5) / count for i in range(count)]

    def forward(self, state: Tensor) -> Tensor:
        for time in self.times:
            state = self.field(torch.tensor(time), state)
        return state


class Unrolled(nn.Module):
    """A model with its solve written out in PyTorch, as one would by hand."""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.model = model
        self.program = plan.solves[0].program

    def forward(self, x: Tensor) -> Tensor:
        def field(t: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor]:
            return (self.model.field(t, states[0]),)

        (trajectory,) = executor.solve(self.program, field, (stem(self.model, x),))
        last = trajectory[-1]
        out: Tensor = self.model.head(last) if hasattr(self.model, "head") else last
        return out


def stem(model: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = model.stem(x) if hasattr(model, "stem") else x
    return out
