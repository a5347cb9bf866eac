"""Small models, one per way of calling a solver. ``PATTERNS`` maps a name to a factory.

A factory returns the module and its inputs, 8 rows each, seeded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torchdiffeq
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint
from torchdiffeq import odeint_adjoint as renamed

Built = tuple[nn.Module, dict[str, Tensor]]
PATTERNS: dict[str, Callable[[], Built]] = {}


def pattern(factory: Callable[[], Built]) -> Callable[[], Built]:
    def seeded() -> Built:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            return factory()

    PATTERNS[factory.__name__] = seeded
    return seeded


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


def _rows() -> dict[str, Tensor]:
    return {"y": torch.randn(8, 3)}


@pattern
def name_bound_at_import() -> Built:
    return Solver(odeint), _rows()


@pattern
def adjoint() -> Built:
    return Solver(odeint_adjoint), _rows()


@pattern
def adjoint_renamed() -> Built:
    return Solver(renamed), _rows()


@pattern
def module_attribute() -> Built:
    return Solver(lambda f, y, t: torchdiffeq.odeint(f, y, t, rtol=1e-4, atol=1e-4)), _rows()


@pattern
def partial_of_solver() -> Built:
    return Solver(partial(odeint, method="dopri8", rtol=1e-5, atol=1e-5)), _rows()


@pattern
def keyword_arguments() -> Built:
    return Solver(lambda f, y, t: odeint(func=f, y0=y, t=t, method="bosh3")), _rows()


@pattern
def imported_inside() -> Built:
    def solve(f: nn.Module, y: Tensor, t: Tensor) -> Tensor:
        from torchdiffeq import odeint as local

        return local(f, y, t)

    return Solver(solve), _rows()


@pattern
def autonomous_field() -> Built:
    return Solver(odeint, autonomous=True), _rows()


@pattern
def reversed_time() -> Built:
    return Solver(odeint, times=(1.0, 0.0)), _rows()


@pattern
def nonuniform_trajectory() -> Built:
    return Solver(odeint, times=(0.0, 0.1, 0.15, 0.9, 1.0), last=False), _rows()


@pattern
def middle_of_trajectory() -> Built:
    class Middle(Solver):
        def forward(self, y: Tensor) -> Tensor:
            return self.solve(self.field, y, torch.linspace(0, 2, 5))[2]

    return Middle(odeint), _rows()


@pattern
def tuple_state() -> Built:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Field()

        def forward(self, y: Tensor) -> dict[str, Tensor]:
            def field(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
                position, energy = state
                slope = self.net(t, position)
                return slope, (slope**2).sum(1)

            start = (y, torch.zeros(y.shape[0]))
            position, energy = odeint(field, start, torch.tensor([0.0, 1.0]))
            return {"position": position[-1], "energy": energy[-1]}

    return Pair(), _rows()


@pattern
def context_on_the_field() -> Built:
    class Conditioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(3, 3)
            self.net = Field(6)
            self.context: Tensor | None = None

        def field(self, t: Tensor, y: Tensor) -> Tensor:
            assert self.context is not None
            return self.net(t, torch.cat([y, self.context], 1))[:, :3]

        def forward(self, y: Tensor) -> Tensor:
            self.context = self.embed(y)
            return odeint(self.field, y, torch.tensor([0.0, 1.0]))[-1]

    return Conditioned(), _rows()


@pattern
def two_inputs() -> Built:
    class Forced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Field()

        def forward(self, y: Tensor, force: Tensor) -> Tensor:
            return odeint(lambda t, x: self.net(t, x) + force, y, torch.tensor([0.0, 1.0]))[-1]

    return Forced(), {**_rows(), "force": torch.randn(8, 3)}


@pattern
def convolution_with_norm_and_dropout() -> Built:
    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
            self.conv = nn.Conv2d(5, 4, 3, padding=1)
            self.norm = nn.GroupNorm(2, 4, eps=0.1)
            self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))

        def field(self, t: Tensor, y: Tensor) -> Tensor:
            time = t.expand(y.shape[0], 1, *y.shape[2:])
            return self.conv(torch.cat([self.norm(torch.tanh(y)), time], 1))

        def forward(self, image: Tensor) -> Tensor:
            state = odeint(self.field, self.stem(image), torch.tensor([0.0, 1.0]))[-1]
            return self.head(state)

    return Images(), {"image": torch.rand(8, 1, 4, 4)}


@pattern
def two_solves() -> Built:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Field(), Field()

        def forward(self, y: Tensor) -> Tensor:
            t = torch.tensor([0.0, 1.0])
            return odeint(self.second, odeint(self.first, y, t)[-1].tanh(), t)[-1]

    return Twice(), _rows()


@pattern
def fixed_steps() -> Built:
    return Solver(partial(odeint, method="rk4", options={"step_size": 0.25})), _rows()


@pattern
def one_euler_step() -> Built:
    return Solver(partial(odeint, method="euler")), _rows()


@pattern
def time_expanded_and_embedded() -> Built:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3 + 8, 16), nn.SiLU(), nn.Linear(16, 3))
            self.register_buffer("frequencies", torch.arange(1.0, 5.0))

        def field(self, t: Tensor, y: Tensor) -> Tensor:
            phase = t.expand(y.shape[0], 1) * self.frequencies
            return self.net(torch.cat([y, phase.sin(), phase.cos()], 1))

        def forward(self, y: Tensor) -> Tensor:
            return odeint(self.field, y, torch.tensor([0.0, 1.0]))[-1]

    return Embedded(), _rows()
