"""``mnist-odenet``: the ODE-Net of Chen et al. 2018 on MNIST.

A down-sampling stem takes (batch, 1, 28, 28) to (batch, 64, 6, 6); one ODE block integrates a
two-convolution vector field from t = 0 to t = 1; a pooled linear head gives 10 logits.

Source: Chen, Rubanova, Bettencourt, Duvenaud, *Neural Ordinary Differential Equations*,
NeurIPS 2018 (arXiv 1806.07366), section 3, and the layer sizes of its published example.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchdiffeq import odeint_adjoint

from odedeploy.models import classification, mnist, publishing
from odedeploy.models.mnist_layers import CHANNELS, VectorField, head, stem
from odedeploy.models.tasks import Task, Through

NAME = "mnist-odenet"
RECIPE = replace(classification.RECIPE, tolerances=(1e-2,) * 6 + (1e-5,) * 2)


class OdeNet(nn.Module):
    """Stem, ODE block, head: images (batch, 1, 28, 28) in [0, 1] → logits (batch, 10).

    ``tolerance`` is rtol = atol of the adaptive solve, forward; ``adjoint_tolerance`` the same of
    the adjoint's backward solve. Both may be set between training steps. ``through``, where it is
    set, solves instead.
    """

    def __init__(self, channels: int = CHANNELS, tolerance: float = 1e-5) -> None:
        super().__init__()
        self.stem = stem(channels)
        self.field = VectorField(channels)
        self.head = head(channels)
        self.tolerance = tolerance
        self.adjoint_tolerance = tolerance
        self.through: Through | None = None

    @property
    def evaluations(self) -> int:
        """Evaluations of the vector field so far, forward and backward."""
        return self.field.evaluations

    def forward(self, image: Tensor) -> Tensor:
        y0 = self.stem(image)
        y1 = self._solve(y0) if self.through is None else self.through(self.field, y0, 0.0, 1.0)
        logits: Tensor = self.head(y1)
        return logits

    def _solve(self, y0: Tensor) -> Tensor:
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
        y1: Tensor = trajectory[-1]
        return y1


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
