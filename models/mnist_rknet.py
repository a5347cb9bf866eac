"""``mnist-rknet``: the ODE-Net of MNIST, trained through the steps of its solver.

The vector field of ``mnist-odenet`` is solved by four steps of Heun's third-order Runge–Kutta
method, and training backpropagates through them: memory grows with the evaluations, and the
gradient is that of the steps taken. Source: as for ``mnist-odenet``, section 3, RK-Net.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from odedeploy.models import classification, mnist, publishing
from odedeploy.models.mnist_layers import CHANNELS, VectorField, head, stem
from odedeploy.models.tasks import Task

NAME = "mnist-rknet"
METHOD = "heun3"
STEPS = 4


class RkNet(nn.Module):
    """Stem, fixed-step solve, head: images (batch, 1, 28, 28) in [0, 1] → logits (batch, 10)."""

    def __init__(self, channels: int = CHANNELS, method: str = METHOD, steps: int = STEPS) -> None:
        super().__init__()
        self.stem = stem(channels)
        self.field = VectorField(channels)
        self.head = head(channels)
        self.method = method
        self.steps = steps

    def forward(self, image: Tensor) -> Tensor:
        y0 = self.stem(image)
        times = torch.tensor([0.0, 1.0], dtype=y0.dtype, device=y0.device)
        options = {"step_size": 1 / self.steps}
        trajectory = odeint(self.field, y0, times, method=self.method, options=options)
        logits: Tensor = self.head(trajectory[-1])
        return logits


def build() -> tuple[RkNet, dict[str, np.ndarray]]:
    """The trained model in eval mode, and ``image``: 2,048 held-out digits (n, 1, 28, 28)."""
    model = RkNet()
    model.load_state_dict(publishing.shipped_weights(NAME))
    return model.eval(), {"image": mnist.pixels(mnist.shipped().images)}


def task(data: Path | None = None) -> Task:
    """Classify MNIST's digits, as ``mnist-odenet`` does, by the same recipe."""
    return classification.task(NAME, RkNet, classification.RECIPE, data)
