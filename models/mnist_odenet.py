"""``mnist-odenet``: the ODE-Net of Chen et al. 2018 on MNIST.

A down-sampling stem takes (batch, 1, 28, 28) to (batch, 64, 6, 6); one ODE block integrates a
two-convolution vector field from t = 0 to t = 1; a pooled linear head gives 10 logits.

Source: Chen, Rubanova, Bettencourt, Duvenaud, *Neural Ordinary Differential Equations*,
NeurIPS 2018 (arXiv 1806.07366), section 3, and the layer sizes of its published example.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchdiffeq import odeint_adjoint

from odedeploy.models import classification, mnist, publishing
from odedeploy.models.tasks import Recipe, Task

NAME = "mnist-odenet"
CHANNELS = 64
GROUPS = 32
RECIPE = Recipe(epochs=8, tolerances=(1e-2,) * 6 + (1e-5,) * 2)


def norm(channels: int) -> nn.GroupNorm:
    """Group normalisation in 32 groups, or the most that divide both 32 and ``channels``."""
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


class ConcatConv(nn.Module):
    """3 × 3 convolution of the state with the time t appended as one constant channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels + 1, channels, kernel_size=3, padding=1)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        time = torch.ones_like(y[:, :1]) * t
        out: Tensor = self.conv(torch.cat([time, y], dim=1))
        return out


class VectorField(nn.Module):
    """f(t, y): (batch, 64, 6, 6) → (batch, 64, 6, 6); norm, ReLU, convolution, twice; norm."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.norm1 = norm(channels)
        self.conv1 = ConcatConv(channels)
        self.norm2 = norm(channels)
        self.conv2 = ConcatConv(channels)
        self.norm3 = norm(channels)
        self.evaluations = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.evaluations += 1
        y = self.conv1(t, torch.relu(self.norm1(y)))
        y = self.conv2(t, torch.relu(self.norm2(y)))
        out: Tensor = self.norm3(y)
        return out


class OdeNet(nn.Module):
    """Stem, ODE block, head: images (batch, 1, 28, 28) in [0, 1] → logits (batch, 10).

    ``tolerance`` is rtol = atol of the adaptive solve, forward; ``adjoint_tolerance`` the same of
    the adjoint's backward solve. Both may be set between training steps.
    """

    def __init__(self, channels: int = CHANNELS, tolerance: float = 1e-5) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, channels, kernel_size=3),
            norm(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=4, stride=2, padding=1),
            norm(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=4, stride=2, padding=1),
        )
        self.field = VectorField(channels)
        self.head = nn.Sequential(
            norm(channels),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, 10),
        )
        self.tolerance = tolerance
        self.adjoint_tolerance = tolerance

    @property
    def evaluations(self) -> int:
        """Evaluations of the vector field so far, forward and backward."""
        return self.field.evaluations

    def forward(self, image: Tensor) -> Tensor:
        y0 = self.stem(image)
        times = torch.tensor([0.0, 1.0], dtype=y0.dtype, device=y0.device)
        trajectory = odeint_adjoint(
            self.field,
            y0,
            times,
            rtol=self.tolerance,
            atol=self.tolerance,
            method="dopri5",
            adjoint_rtol=self.adjoint_tolerance,
            adjoint_atol=self.adjoint_tolerance,
            adjoint_options={"norm": "seminorm"},
        )
        logits: Tensor = self.head(trajectory[-1])
        return logits


def build() -> tuple[OdeNet, dict[str, np.ndarray]]:
    """The trained model in eval mode, and ``image``: 2,048 held-out digits (n, 1, 28, 28)."""
    model = OdeNet()
    model.load_state_dict(publishing.shipped_weights(NAME))
    return model.eval(), {"image": mnist.pixels(mnist.shipped().images)}


def task(data: Path | None = None) -> Task:
    """Classify MNIST's digits; the last 2,048 training digits are held out.

    ``data`` is the folder of the IDX files; without it they are fetched once. The test error is
    measured when the folder holds the test digits.

    Raises BadInput for files that are missing, damaged or cannot be fetched.
    """
    return classification.task(NAME, OdeNet, RECIPE, data)
