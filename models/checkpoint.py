"""Checkpoints of training runs: one file, replaced whole, read without unpickling code."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from odedeploy import files
from odedeploy.errors import BadInput


@dataclass(frozen=True)
class Checkpoint:
    """A run after ``step`` steps and ``seconds`` seconds of training.

    ``recipe`` holds the fields of the run's recipe; ``model``, ``optimizer``, ``schedule`` and
    ``average`` are state dictionaries, the last one of the weights' moving average or empty.
    ``tolerances`` are those of the forward and the backward solve at that step, or empty.
    """

    recipe: dict[str, Any]
    seed: int
    step: int
    seconds: float
    model: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    average: dict[str, Any]
    tolerances: tuple[float, ...] = ()

    @property
    def published(self) -> dict[str, Any]:
        """The weights to measure and publish: their moving average where there is one."""
        return self.average or self.model


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write whole or not at all; raises BadInput when the folder cannot be written."""
    buffer = io.BytesIO()
    torch.save(vars(checkpoint), buffer)
    files.replace(path, buffer.getvalue())


def read(path: Path) -> Checkpoint:
    """The checkpoint in ``path``, on the CPU; raises BadInput for a file that is none."""
    if not path.is_file():
        raise BadInput(f"The checkpoint {path} does not exist.")
    try:
        return Checkpoint(**torch.load(path, weights_only=True, map_location="cpu"))
    except Exception as error:
        raise BadInput(
            f"{path} is not a checkpoint of a training run ({type(error).__name__}); "
            "choose another folder or start over with --fresh."
        ) from error


def sweep(path: Path) -> None:
    """Remove what a run that was killed while writing ``path`` left in the folder."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        with suppress(OSError):
            left.unlink()
