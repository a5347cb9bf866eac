"""``mnist-mlp``: a perceptron of one hidden layer on MNIST, the smallest model of the table.

It solves no ODE; it stands beside those that do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor, nn

from odedeploy.models import classification, mnist, publishing
from odedeploy.models.tasks import Task

NAME = "mnist-mlp"
HIDDEN = 300


class Mlp(nn.Module):
    """Images (batch, 1, 28, 28) in [0, 1] → logits (batch, 10)."""

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(28 * 28, hidden), nn.ReLU(), nn.Linear(hidden, 10)
        )

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layers(image)
        return logits


def build() -> tuple[Mlp, dict[str, np.ndarray]]:
    """The trained model in eval mode, and ``image``: 2,048 held-out digits (n, 1, 28, 28)."""
    model = Mlp()
    model.load_state_dict(publishing.shipped_weights(NAME))
    return model.eval(), {"image": mnist.pixels(mnist.shipped().images)}


def task(data: Path | None = None) -> Task:
    """Classify MNIST's digits, as ``mnist-odenet`` does, by the same recipe."""
    return classification.task(NAME, Mlp, classification.RECIPE, data)
