"""What classifiers of MNIST share in training: task, loss, accuracy and augmentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from odedeploy.models import mnist
from odedeploy.models.tasks import Batch, Metrics, Recipe, Task

RECIPE = Recipe(epochs=8)
"""The one recipe of the models that are compared on MNIST."""


def task(name: str, model: Callable[[], nn.Module], recipe: Recipe, data: Path | None) -> Task:
    """The task of training ``model`` on MNIST; the last 2,048 training digits are held out.

    ``data`` is the folder of the IDX files; without it they are fetched once. The test error is
    measured when the folder holds the test digits.

    Raises BadInput for files that are missing, damaged or cannot be fetched.
    """
    digits = mnist.load("train", data)
    held_out = mnist.load("held-out", data)
    test = mnist.load("test", data) if mnist.holds("test", data) else None
    return classify(name, model, recipe, digits, held_out, test)


def classify(
    name: str,
    model: Callable[[], nn.Module],
    recipe: Recipe,
    digits: mnist.Digits,
    held_out: mnist.Digits,
    test: mnist.Digits | None,
) -> Task:
    """The task of training ``model`` to classify ``digits``, seen through random jitter."""
    images, labels = tensors(digits)

    def batch(rows: Tensor, generator: Generator) -> Batch:
        return jitter(images[rows], generator), labels[rows]

    return Task(
        name=name,
        model=model,
        size=len(digits),
        batch=batch,
        loss=loss,
        held_out=lambda trained: measure(trained, *tensors(held_out)),
        test=lambda trained: {} if test is None else measure(trained, *tensors(test)),
        recipe=recipe,
        data=mnist.FACTS,
    )


def tensors(digits: mnist.Digits) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 28, 28) float32 in [0, 1] and labels (n,) int64."""
    images = torch.from_numpy(mnist.pixels(digits.images))
    return images, torch.from_numpy(digits.labels.astype(np.int64))


def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
    """Mean cross-entropy of (images, labels), and the share of labels that are right."""
    images, labels = batch
    logits = model(images)
    right = (logits.argmax(1) == labels).float().mean().item()
    return cross_entropy(logits, labels), {"accuracy": right}


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch: int = 256) -> Tensor:
    """Labels (n,) of ``images`` (n, …), on the CPU, by the model's own solve on its own device."""
    device = next(model.parameters()).device
    parts = torch.split(images, batch)
    return torch.cat([model(part.to(device)).argmax(1).cpu() for part in parts])


def measure(model: nn.Module, images: Tensor, labels: Tensor, batch: int = 256) -> Metrics:
    """Accuracy and error of the model's own solve: shares of ``images`` (n, …), labels (n,)."""
    wrong = int((predict(model, images, batch) != labels).sum())
    return {"accuracy": 1 - wrong / len(labels), "error": wrong / len(labels)}


def jitter(images: Tensor, generator: Generator) -> Tensor:
    """Random affine copies of (n, c, h, w): ±10° rotation, ±10 % scale, ±1/14 of the size shift."""
    n = len(images)
    angle, scale, dx, dy = torch.rand(4, n, generator=generator) * 2 - 1
    angle, scale = angle * (torch.pi / 18), 1 + 0.1 * scale
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift = 2 / 14
    rows = [torch.stack([cos, -sin, dx * shift], 1), torch.stack([sin, cos, dy * shift], 1)]
    grid = affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return grid_sample(images, grid, align_corners=False)
