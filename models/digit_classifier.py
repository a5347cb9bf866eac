"""``digit-classifier``: an ordinary convolutional network that judges generated digits.

It solves no ODE and shares nothing with the models it judges but the training digits.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from odedeploy.models import classification, publishing
from odedeploy.models.tasks import Recipe, Task

NAME = "digit-classifier"
RECIPE = Recipe(epochs=6, learning_rate=4e-3)


class DigitClassifier(nn.Module):
    """Images (batch, 1, 28, 28) in [0, 1] → logits (batch, 10)."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, kernel_size=5, stride=2, padding=2),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, kernel_size=3, stride=2, padding=1),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.Conv2d(2 * channels, 4 * channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(4 * channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(4 * channels * 9, 10),
        )

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layers(image)
        return logits


def build() -> DigitClassifier:
    """The trained classifier in eval mode."""
    model = DigitClassifier()
    model.load_state_dict(publishing.shipped_weights(NAME))
    return model.eval()


def task(data: Path | None = None) -> Task:
    """Classify MNIST's digits, with the same parts of the data as ``mnist-odenet``."""
    return classification.task(NAME, DigitClassifier, RECIPE, data)
