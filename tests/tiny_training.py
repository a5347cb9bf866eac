"""A task that trains in a second: a 4-channel ODE-Net on a few shipped digits.

As a script, ``tiny_training.py CHECKPOINT STEP`` trains it and kills its own process with SIGKILL
in the middle of that step.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch

from odedeploy.models import mnist, training
from odedeploy.models.classification import classify
from odedeploy.models.mnist_odenet import NAME, OdeNet
from odedeploy.models.tasks import Recipe, Task

RECIPE = Recipe(epochs=2, tolerances=(1e-1, 1e-2), batch=16)
EVERY = 4


def digits(first: int, last: int) -> mnist.Digits:
    shipped = mnist.shipped()
    return mnist.Digits(shipped.images[first:last], shipped.labels[first:last])


def tiny(recipe: Recipe = RECIPE, size: int = 96, channels: int = 4) -> Task:
    """Six steps an epoch, two epochs."""
    return classify(
        NAME,
        lambda: OdeNet(channels, tolerance=1e-2),
        recipe,
        digits(0, size),
        digits(96, 128),
        None,
    )


def ending(task: Task, step: int, end: Callable[[], None]) -> Task:
    """The task in which ``end`` is called in the middle of the given step."""
    calls = count(1)

    def loss(model, batch):
        result = task.loss(model, batch)
        if next(calls) == step:
            end()
        return result

    return replace(task, loss=loss)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    task = ending(tiny(), int(sys.argv[2]), kill)
    training.run(task, Path(sys.argv[1]), device="cpu", every=EVERY)
