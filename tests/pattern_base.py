"""The registry of small models, one per way of calling a solver, and what they share.

A factory returns the module and its inputs, 8 rows each, seeded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Built = tuple[nn.Module, dict[str, Tensor]]
Factory = Callable[[], Built]


@dataclass(frozen=True)
class Asked:
    """What a pattern asks of capture: inputs without a batch axis, and what becomes of noise."""

    static: tuple[str, ...] = ()
    noise: str | None = None


PATTERNS: dict[str, Factory] = {}
ASKED: dict[str, Asked] = {}
SAYS: dict[str, str] = {}
"""What a pattern is an example of, in a few words."""


def pattern(says: str, static: tuple[str, ...] = (), noise: str | None = None) -> Any:
    """Register a factory under its own name."""

    def register(factory: Factory) -> Factory:
        def seeded() -> Built:
            with torch.random.fork_rng():
                torch.manual_seed(7)
                return factory()

        PATTERNS[factory.__name__] = seeded
        ASKED[factory.__name__] = Asked(static, noise)
        SAYS[factory.__name__] = says
        return seeded

    return register


class Field(nn.Module):
    """A small smooth field; time enters as a factor, and evaluations are counted."""

    def __init__(self, width: int = 3, autonomous: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 16), nn.Tanh(), nn.Linear(16, width))
        self.autonomous = autonomous
        self.evaluations = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.evaluations += 1
        slope = self.net(y)
        return slope if self.autonomous else slope * torch.cos(t)


class Solver(nn.Module):
    """dy/dt from t = 0 to 1 by whatever ``solve(field, y0, t)`` is."""

    def __init__(
        self,
        solve: Callable[..., Tensor],
        times: tuple[float, ...] = (0.0, 1.0),
        last: bool = True,
        autonomous: bool = False,
    ) -> None:
        super().__init__()
        self.field = Field(autonomous=autonomous)
        self.solve = solve
        self.times = times
        self.last = last

    def forward(self, y: Tensor) -> Tensor:
        trajectory = self.solve(self.field, y, torch.tensor(self.times))
        return trajectory[-1] if self.last else trajectory


class Model(nn.Module):
    """A module made of named parts and a forward that is given; its inputs are ``y`` alone."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self._forward = forward

    def forward(self, y: Tensor) -> Any:
        return self._forward(self, y)


class Conditioned(Model):
    """The same with a second input ``c``."""

    def forward(self, y: Tensor, c: Tensor) -> Any:  # type: ignore[override]
        return self._forward(self, y, c)


def rows(*shape: int) -> dict[str, Tensor]:
    return {"y": torch.randn(8, *(shape or (3,)))}


def mlp(inputs: int, outputs: int, hidden: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


UNIT = (0.0, 1.0)


def unit() -> Tensor:
    return torch.tensor(UNIT)
