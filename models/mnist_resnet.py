"""``mnist-resnet``: six residual blocks between the stem and the head of ``mnist-odenet``.

It solves no ODE; it stands beside those that do. Source: as for ``mnist-odenet``, whose single
vector field takes the place of the six blocks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from odedeploy.models import classification, mnist, publishing
from odedeploy.models.mnist_layers import CHANNELS, head, norm, stem
from odedeploy.models.tasks import Task

NAME = "mnist-resnet"
BLOCKS = 6


class ResidualBlock(nn.Module):
    """y → y + g(y), states (batch, channels, 6, 6); g: norm, ReLU, convolution, twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.norm2 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, y: Tensor) -> Tensor:
        h = self.conv1(torch.relu(self.norm1(y)))
        out: Tensor = y + self.conv2(torch.relu(self.norm2(h)))
        return out


class ResNet(nn.Module):
    """Stem, residual blocks, head: images (batch, 1, 28, 28) in [0, 1] → logits (batch, 10)."""

    def __init__(self, channels: int = CHANNELS, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.stem = stem(channels)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.head = head(channels)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(image)))
        return logits


def build() -> tuple[ResNet, dict[str, np.ndarray]]:
    """The trained model in eval mode, and ``image``: 2,048 held-out digits (n, 1, 28, 28)."""
    model = ResNet()
    model.load_state_dict(publishing.shipped_weights(NAME))
    return model.eval(), {"image": mnist.pixels(mnist.shipped().images)}


def task(data: Path | None = None) -> Task:
    """Classify MNIST's digits, as ``mnist-odenet`` does, by the same recipe."""
    return classification.task(NAME, ResNet, classification.RECIPE, data)
