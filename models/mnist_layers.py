"""The layers that the residual networks and Neural ODEs of MNIST share.

Source: Chen, Rubanova, Bettencourt, Duvenaud, *Neural Ordinary Differential Equations*,
NeurIPS 2018 (arXiv 1806.07366), section 3, and the layer sizes of its published example.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

CHANNELS = 64
GROUPS = 32


def norm(channels: int) -> nn.GroupNorm:
    """Group normalisation in 32 groups, or the most that divide both 32 and ``channels``."""
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


def stem(channels: int) -> nn.Sequential:
    """Down-sampling: images (batch, 1, 28, 28) → states (batch, channels, 6, 6)."""
    return nn.Sequential(
        nn.Conv2d(1, channels, kernel_size=3),
        norm(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel_size=4, stride=2, padding=1),
        norm(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel_size=4, stride=2, padding=1),
    )


def head(channels: int) -> nn.Sequential:
    """Pooling and a linear map: states (batch, channels, 6, 6) → logits (batch, 10)."""
    return nn.Sequential(
        norm(channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 10),
    )


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
