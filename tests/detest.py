"""The 25 non-stiff problems of DETEST as PyTorch models, states of shape (batch, n), t = 0 to 20.

Hull, Enright, Fellen, Sedgwick 1972, SIAM J. Numer. Anal. 9, 603–637; in the scaling of Enright,
Pryce 1987, ACM Trans. Math. Softw. 13, 1–27. Classes: A single equations, B small systems,
C moderate systems, D orbits, E second-order equations written as first-order systems. Written to
the adaptive form, and solved by torchdiffeq at the same tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

import odedeploy
from odedeploy.lowering import lower
from odedeploy.passes import clean
from odedeploy.program import Control, Plan

Field = Callable[[Tensor, Tensor], Tensor]

END = 20.0

TIMES = torch.tensor([0.0, END], dtype=torch.float64)


@dataclass(frozen=True)
class Problem:
    field: Field
    start: tuple[float, ...]

    def initial(self) -> Tensor:
        """Shape (1, n), float64."""
        return torch.tensor([self.start], dtype=torch.float64)


    def solved(self, method: str = "dopri5", **options: Any) -> tuple[np.ndarray, int]:
        """The state at the end by torchdiffeq, (1, n), and its evaluations."""
        count = 0

        def field(t: Tensor, y: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return self.field(t, y)

        end = odeint(field, self.initial(), TIMES, method=method, **options)[-1]
        return end.numpy(), count

    def adaptive(self, per_sample: bool = False) -> ir.Model:
        """The adaptive form of the solve: ``x`` is the initial state, the end the first output."""
        start = (1.0, 0.0, 0.0, 1.0) if self.field is orbit else self.start
        return written(self.field, start, per_sample)


class Begun(nn.Module):
    """The solve as far as capture needs to go to see the vector field."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def forward(self, x: Tensor) -> Tensor:
        return odeint(self.field, x, TIMES / 1000, method="dopri5", rtol=0.1, atol=0.1)[-1]


@cache
def written(field: Field, start: tuple[float, ...], per_sample: bool) -> ir.Model:
    graph = odedeploy.capture(Begun(field), torch.tensor([start] * 3, dtype=torch.float64))
    whole = replace(graph, sites=(replace(graph.sites[0], times=(0.0, END)),))
    return clean(lower(whole, Plan((), control=Control(per_sample=per_sample)), "adaptive"))


def system(*rows: Callable[..., Tensor]) -> Field:
    """One function of t and the components for each component's derivative."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        parts = y.unbind(-1)
        return torch.stack([row(t, *parts) for row in rows], -1)

    return field


def linear(matrix: Tensor) -> Field:
    return lambda t, y: y @ matrix.T


def decay(rates: list[float]) -> Tensor:
    """A chain of decays, the last of which is stable."""
    out = torch.tensor([*rates, 0.0], dtype=torch.float64)
    return torch.diag(-out) + torch.diag(out[:-1], -1)


def diffusion(n: int) -> Tensor:
    ones = torch.ones(n, dtype=torch.float64)
    return torch.diag(-2 * ones) + torch.diag(ones[1:], 1) + torch.diag(ones[1:], -1)


def torus(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    r = torch.sqrt(a * a + b * b)
    return torch.stack([-b - a * c / r, a - b * c / r, a / r], -1)


GRAVITY, SUN = 2.95912208286, 1.00000597682
PLANETS = (0.954786104043e-3, 0.285583733151e-3, 0.437273164546e-4, 0.517759138449e-4,
           0.277777777778e-5)  # fmt: skip
"""Masses of Jupiter, Saturn, Uranus, Neptune and Pluto."""
POSITIONS = (3.42947415189, 3.35386959711, 1.35494901715, 6.64145542550, 5.97156957878,
             2.18231499728, 11.2630437207, 14.6952576794, 6.27960525067, -30.1552268759,
             1.65699966404, 1.43785752721, -21.1238353380, 28.4465098142,
             15.3882659679)  # fmt: skip
VELOCITIES = (-0.557160570446, 0.505696783289, 0.230578543901, -0.415570776342, 0.365682722812,
              0.169143213293, -0.325325669158, 0.189706021964, 0.0877265322780, -0.0240476254170,
              -0.287659532608, -0.117219543175, -0.176860753121, -0.216393453025,
              -0.0148647893090)  # fmt: skip


def planets(t: Tensor, y: Tensor) -> Tensor:
    """Five outer planets about the sun, which their pull moves, too."""
    x, v = y[:, :15].unflatten(1, (5, 3)), y[:, 15:]
    masses = torch.tensor(PLANETS, dtype=y.dtype)
    to_sun = x / (x * x).sum(-1, keepdim=True) ** 1.5
    apart = x[:, None] - x[:, :, None]
    distance = (apart * apart).sum(-1, keepdim=True) + torch.eye(5, dtype=y.dtype)[..., None]
    pull = apart / distance**1.5
    others = 1 - torch.eye(5, dtype=y.dtype)
    weights = (others * masses)[None, :, :, None]
    force = (weights * (pull - to_sun[:, None])).sum(2)
    own = (SUN + masses)[None, :, None] * to_sun
    return torch.cat([v, (GRAVITY * (force - own)).flatten(1)], 1)


def orbit(t: Tensor, y: Tensor) -> Tensor:
    x, v = y[:, :2], y[:, 2:]
    return torch.cat([v, -x / (x * x).sum(-1, keepdim=True) ** 1.5], 1)


def eccentric(e: float) -> Problem:
    return Problem(orbit, (1 - e, 0.0, 0.0, math.sqrt((1 + e) / (1 - e))))


def one_hot(n: int) -> tuple[float, ...]:
    return (1.0, *[0.0] * (n - 1))


PROBLEMS: dict[str, Problem] = {
    "A1": Problem(lambda t, y: -y, (1.0,)),
    "A2": Problem(lambda t, y: -(y * y * y) / 2, (1.0,)),
    "A3": Problem(lambda t, y: y * torch.cos(t), (1.0,)),
    "A4": Problem(lambda t, y: y / 4 * (1 - y / 20), (1.0,)),
    "A5": Problem(lambda t, y: (y - t) / (y + t), (4.0,)),
    "B1": Problem(
        system(lambda t, a, b: 2 * (a - a * b), lambda t, a, b: -(b - a * b)), (1.0, 3.0)
    ),
    "B2": Problem(
        linear(torch.tensor([[-1.0, 1, 0], [1, -2, 1], [0, 1, -1]], dtype=torch.float64)),
        (2.0, 0.0, 1.0),
    ),
    "B3": Problem(
        system(
            lambda t, a, b, c: -a, lambda t, a, b, c: a - b * b, lambda t, a, b, c: b * b
        ),
        (1.0, 0.0, 0.0),
    ),
    "B4": Problem(torus, (3.0, 0.0, 0.0)),
    "B5": Problem(
        system(
            lambda t, a, b, c: b * c, lambda t, a, b, c: -a * c, lambda t, a, b, c: -0.51 * a * b
        ),
        (0.0, 1.0, 1.0),
    ),
    "C1": Problem(linear(decay([1.0] * 9)), one_hot(10)),
    "C2": Problem(linear(decay([float(i) for i in range(1, 10)])), one_hot(10)),
    "C3": Problem(linear(diffusion(10)), one_hot(10)),
    "C4": Problem(linear(diffusion(51)), one_hot(51)),
    "C5": Problem(planets, POSITIONS + VELOCITIES),
    **{f"D{i}": eccentric(e) for i, e in enumerate((0.1, 0.3, 0.5, 0.7, 0.9), start=1)},
    "E1": Problem(
        system(
            lambda t, a, b: b,
            lambda t, a, b: -(b / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * a),
        ),
        (0.6713967071418030, 0.09540051444747446),
    ),
    "E2": Problem(system(lambda t, a, b: b, lambda t, a, b: (1 - a * a) * b - a), (2.0, 0.0)),
    "E3": Problem(
        system(lambda t, a, b: b, lambda t, a, b: a * a * a / 6 - a + 2 * torch.sin(2.78535 * t)),
        (0.0, 0.0),
    ),
    "E4": Problem(system(lambda t, a, b: b, lambda t, a, b: 0.032 - 0.4 * b * b), (30.0, 0.0)),
    "E5": Problem(
        system(lambda t, a, b: b, lambda t, a, b: torch.sqrt(1 + b * b) / (25 - t)), (0.0, 0.0)
    ),
}
