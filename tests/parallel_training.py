"""Trains the RK-Net of four channels on a few digits: ``parallel_training.py CHECKPOINT``.

Alone or under ``torchrun``, as the test of data-parallel training does.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from tiny_training import tiny

from odedeploy.models import training
from odedeploy.models.mnist_rknet import RkNet
from odedeploy.models.tasks import Recipe, Task


def fixed() -> Task:
    """Three steps an epoch, two epochs, by two steps of the solver."""
    recipe = Recipe(epochs=2, batch=32)
    return replace(tiny(recipe), model=lambda: RkNet(4, steps=2))


if __name__ == "__main__":
    torch.set_num_threads(1)
    seen: list[int] = []
    training.run(
        fixed(), Path(sys.argv[1]), device="cpu", every=2, report=lambda at: seen.append(at.step)
    )
    print(seen)
