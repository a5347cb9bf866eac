"""Continuous normalizing flows: a field, its divergence, and the two directions as modules.

A sample x(1) of the data and a draw x(0) of the standard normal are the ends of one trajectory of
dx/dt = f(t, x), and the log-density changes along it by −∫ tr(∂f/∂x) dt. ``LogDensity`` solves from
t = 1 to t = 0 with the trace, ``Sampler`` from t = 0 to t = 1 without. The trace is the sum of
⟨v, (∂f/∂x) v⟩ over directions v: over the unit vectors it is exact, over one random v of mean 0 and
covariance 1, an input of ``HutchinsonLogDensity``, it is an estimate without bias.

Sources: Chen, Rubanova, Bettencourt, Duvenaud, *Neural Ordinary Differential Equations*, NeurIPS
2018 (arXiv 1806.07366), section 4; Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, *FFJORD*,
ICLR 2019 (arXiv 1810.01367), whose gated layers the field is made of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torchdiffeq import odeint, odeint_adjoint

from odedeploy.models import publishing
from odedeploy.models.tasks import Metrics

Pair = tuple[Tensor, Tensor]

WIDTH = 64
DEPTH = 3


class GatedLinear(nn.Module):
    """(W x + b) · σ(g t + c) + s t: a dense layer whose time enters by a gate and a shift.

    ``t`` is one time (), ``x`` has shape (…, inputs).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.gate = nn.Linear(1, outputs)
        self.shift = nn.Linear(1, outputs, bias=False)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x) * self._open(t) + self.shift(t.reshape(1))
        return out

    def tangent(self, t: Tensor, v: Tensor) -> Tensor:
        """The derivative of the layer along ``v``, at any x."""
        return linear(v, self.linear.weight) * self._open(t)

    def _open(self, t: Tensor) -> Tensor:
        return torch.sigmoid(self.gate(t.reshape(1)))


class VectorField(nn.Module):
    """f(t, x): (batch, dimensions) → (batch, dimensions), gated layers with tanh in between."""

    def __init__(self, dimensions: int, width: int = WIDTH, depth: int = DEPTH) -> None:
        super().__init__()
        sizes = [dimensions] + [width] * depth
        self.hidden = nn.ModuleList(map(GatedLinear, sizes, sizes[1:]))
        self.last = GatedLinear(width, dimensions)
        self.evaluations = 0

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        self.evaluations += 1
        for layer in self.hidden:
            x = torch.tanh(layer(t, x))
        out: Tensor = self.last(t, x)
        return out

    def with_trace(self, t: Tensor, x: Tensor, directions: Tensor) -> Pair:
        """f(t, x) and Σ ⟨v, (∂f/∂x) v⟩, shape (batch, 1), over the directions v.

        ``directions`` has shape (number, batch or 1, dimensions); they are pushed forward through
        the layers together with x.
        """
        self.evaluations += 1
        pushed = directions
        for layer in cast(Iterable[GatedLinear], self.hidden):
            x, pushed = torch.tanh(layer(t, x)), layer.tangent(t, pushed)
            pushed = (1 - x * x) * pushed
        along = (directions * self.last.tangent(t, pushed)).sum(0)
        return self.last(t, x), along.sum(1, keepdim=True)


class Flow(nn.Module):
    """A flow between the standard normal at t = 0 and the data at t = 1.

    ``tolerance`` is rtol = atol of the adaptive solve, forward; ``adjoint_tolerance`` the same of
    the adjoint's backward solve. Both may be set between training steps.
    """

    def __init__(
        self, dimensions: int, width: int = WIDTH, depth: int = DEPTH, tolerance: float = 1e-5
    ) -> None:
        super().__init__()
        self.field = VectorField(dimensions, width, depth)
        self.tolerance = tolerance
        self.adjoint_tolerance = tolerance

    @property
    def evaluations(self) -> int:
        """Evaluations of the vector field so far, forward and backward."""
        return self.field.evaluations

    def encode(self, x: Tensor, directions: Tensor) -> Pair:
        """x (batch, dimensions) → its end z at t = 0, and log p(x) in nats, (batch, 1)."""
        field = self.field
        trajectory, traces = odeint_adjoint(
            lambda t, state: field.with_trace(t, state[0], directions),
            (x, torch.zeros_like(x[:, :1])),
            x.new_tensor([1.0, 0.0]),
            rtol=self.tolerance,
            atol=self.tolerance,
            method="dopri5",
            adjoint_rtol=self.adjoint_tolerance,
            adjoint_atol=self.adjoint_tolerance,
            adjoint_options={"norm": "seminorm"},
            adjoint_params=tuple(field.parameters()),
        )
        z = trajectory[-1]
        normal = -0.5 * (z * z).sum(1, keepdim=True) - 0.5 * x.shape[1] * math.log(2 * math.pi)
        return z, normal + traces[-1]


class LogDensity(Flow):
    """x (batch, d) → (batch, d + 1): the normal draw z that x comes from, and log p(x) in nats.

    They are one output, because the log-density alone crosses zero, where an error relative to it
    means nothing: relative to the norm of (z, log p) it does. The trace is exact.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.encode(x, units(x)), dim=1)


class HutchinsonLogDensity(Flow):
    """``LogDensity`` with the trace along one direction: x, noise (batch, d) → (batch, d + 1).

    ``noise`` has mean 0 and covariance 1, signs ±1 best; the mean over draws of it is log p(x).
    """

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return torch.cat(self.encode(x, noise[None]), dim=1)


class Sampler(Flow):
    """Standard normal noise (batch, d) → samples of the data (batch, d)."""

    def forward(self, noise: Tensor) -> Tensor:
        trajectory = odeint(
            self.field,
            noise,
            noise.new_tensor([0.0, 1.0]),
            rtol=self.tolerance,
            atol=self.tolerance,
            method="dopri5",
        )
        samples: Tensor = trajectory[-1]
        return samples


AnyFlow = TypeVar("AnyFlow", bound=Flow)


def trained(kind: type[AnyFlow], dimensions: int, name: str) -> AnyFlow:
    """A module of ``kind`` with the shipped weights of ``name``, in eval mode."""
    flow = kind(dimensions)
    flow.load_state_dict(publishing.shipped_weights(name))
    return flow.eval()


def units(x: Tensor) -> Tensor:
    """The unit vectors as directions for x (batch, d): (d, 1, d)."""
    return torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, None]


def normal(count: int, dimensions: int, seed: int = 0) -> np.ndarray:
    """(count, dimensions) float32, standard normal."""
    return np.random.default_rng(seed).standard_normal((count, dimensions), dtype=np.float32)


def signs(count: int, dimensions: int, seed: int = 0) -> np.ndarray:
    """(count, dimensions) float32, ±1 with equal chances."""
    drawn = np.random.default_rng(seed).integers(0, 2, (count, dimensions))
    return (2 * drawn - 1).astype(np.float32)


@torch.no_grad()
def nll(module: nn.Module, x: Tensor, batch: int = 1024) -> Metrics:
    """``nll``: mean of −log p(x) over x (n, d), in nats, by the flow's own solve, trace exact."""
    flow = cast(Flow, module)
    device = next(flow.parameters()).device
    parts = [part.to(device) for part in torch.split(x, batch)]
    total = sum(flow.encode(part, units(part))[1].double().sum().item() for part in parts)
    return {"nll": -total / len(x)}


def nats(found: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """|log p − its reference| of every input, in nats: a metric for outputs (z, log p)."""
    error: np.ndarray = np.abs(found[:, -1].astype(np.float64) - reference[:, -1])
    return error
