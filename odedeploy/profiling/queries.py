"""Inputs cut into inferences of a batch size, and the file that takes them to a worker."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MOST = 16
"""Inferences that a measurement goes through in turn."""


def cut(
    inputs: Mapping[str, np.ndarray], static: frozenset[str], batch: int
) -> list[dict[str, np.ndarray]]:
    """Inferences of ``batch`` inputs each, as many as there are inputs for, ``MOST`` at the most.

    Where there are fewer than ``batch`` inputs they are repeated. Those named in ``static`` have no
    batch axis.
    """
    rows = min((len(a) for name, a in inputs.items() if name not in static), default=1)
    count = max(1, min(MOST, rows // batch))
    return [
        {
            name: array if name in static else np.take(
                array, range(i * batch, (i + 1) * batch), 0, mode="wrap"
            )
            for name, array in inputs.items()
        }
        for i in range(count)
    ]  # fmt: skip


def save(inferences: Sequence[Mapping[str, np.ndarray]], file: Path) -> Path:
    """An .npz file as ``load`` reads it."""
    arrays: dict[str, Any] = {
        f"{index} {name}": array
        for index, query in enumerate(inferences)
        for name, array in query.items()
    }
    np.savez(file, **arrays)
    return file


def load(file: str | os.PathLike[str]) -> list[dict[str, np.ndarray]]:
    """What ``save`` wrote: arrays named ``"<inference> <input>"``, regrouped."""
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(file, allow_pickle=False) as arrays:
        for key in arrays.files:
            index, _, name = key.partition(" ")
            found.setdefault(index, {})[name] = arrays[key]
    return list(found.values())
