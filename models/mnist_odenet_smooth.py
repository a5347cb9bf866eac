"""``mnist-odenet-smooth``: the ODE-Net of MNIST, regularised to be cheap to solve.

The architecture is that of ``mnist-odenet`` and training starts from its weights; two epochs with
a penalty on the field's Jacobian and on the local errors of its solve make the trajectories
smoother, so that the same tolerance takes fewer evaluations.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from odedeploy.models import classification, mnist, publishing
from odedeploy.models.mnist_odenet import OdeNet
from odedeploy.models.tasks import Recipe, Task

NAME = "mnist-odenet-smooth"
RECIPE = Recipe(
    epochs=2,
    learning_rate=1e-3,
    regularisers=(("jacobian", 0.3), ("local-error", 10.0)),
    start="mnist-odenet",
)


def pretrained() -> OdeNet:
    """The model with the shipped weights that training starts from."""
    model = OdeNet()
    model.load_state_dict(publishing.shipped_weights(RECIPE.start))
    return model


def build() -> tuple[OdeNet, dict[str, np.ndarray]]:
    """The trained model in eval mode, and ``image``: 2,048 held-out digits (n, 1, 28, 28)."""
    model = OdeNet()
    model.load_state_dict(publishing.shipped_weights(NAME))
    return model.eval(), {"image": mnist.pixels(mnist.shipped().images)}


def task(data: Path | None = None) -> Task:
    """Classify MNIST's digits, as ``mnist-odenet`` does, with the penalties in the loss."""
    return classification.task(NAME, pretrained, RECIPE, data)
