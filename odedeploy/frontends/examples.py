"""Example inputs in the batch sizes that recording and tracing ask for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from odedeploy.errors import BadInput
from odedeploy.graph import Inputs

PRIMES = (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)

NUDGE = 1.0078125
"""Factor between the inputs of two recordings."""


@dataclass(frozen=True)
class Examples:
    """Arrays by input name; the first axis is the batch except for the names in ``static``.

    Raises BadInput for an empty input, and for inputs whose first axes differ.
    """

    inputs: Inputs
    static: frozenset[str]

    def __post_init__(self) -> None:
        lengths = {name: len(self.inputs[name]) for name in self.batched}
        if empty := [name for name, length in lengths.items() if not length]:
            raise BadInput(f"The input {empty[0]!r} is empty; give at least one row.")
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise BadInput(
                f"The first axes of the inputs differ ({listed}); give as many rows of each, and "
                "name an input without a batch axis with --static NAME."
            )

    @classmethod
    def of(cls, inputs: Inputs, static: Iterable[str]) -> Examples:
        """Inputs of rank 0 are static, named or not."""
        arrays = {name: np.asarray(array) for name, array in inputs.items()}
        if unknown := sorted(set(static) - set(arrays)):
            raise BadInput(f"There is no input {unknown[0]!r}; the inputs are {', '.join(arrays)}.")
        scalars = {name for name, array in arrays.items() if array.ndim == 0}
        return cls(arrays, frozenset(static) | scalars)

    @property
    def batched(self) -> tuple[str, ...]:
        return tuple(name for name in self.inputs if name not in self.static)

    def pair(self, part: int, read: Collection[str] = ()) -> dict[str, Tensor]:
        """Two rows, others for each ``part`` as far as there are any.

        In every part but the first, all numbers are a little larger as well, so that what follows
        from an input differs between two parts; integers, which may be indices, only in the inputs
        named in ``read``.
        """
        rows = self._taken([2 * part, 2 * part + 1])
        if not part:
            return rows
        for name, tensor in rows.items():
            if tensor.is_floating_point():
                rows[name] = tensor * NUDGE
            elif name in read:
                rows[name] = ~tensor if tensor.dtype == torch.bool else tensor + 1
        return rows

    def tiled(self, batch: int) -> dict[str, Tensor]:
        """Rows repeated to ``batch`` of them."""
        return self._taken(range(batch))

    def batches(self, tensors: Iterable[Tensor]) -> tuple[int, int]:
        """Two batch sizes that divide no axis of the model's tensors or inputs.

        Symbolic tracing takes axes of equal length for the same axis.
        """
        taken = {n for tensor in tensors for n in tensor.shape}
        for name, array in self.inputs.items():
            taken |= set(array.shape[name not in self.static :])
        free = [p for p in PRIMES if all(n % p or not n for n in taken)]
        first, second = (free + [p for p in PRIMES[::-1] if p not in free])[:2]
        return first, second

    def _taken(self, rows: Iterable[int]) -> dict[str, Tensor]:
        chosen = list(rows)
        return {
            name: torch.from_numpy(
                np.array(array) if name in self.static else np.take(array, chosen, 0, mode="wrap")
            )
            for name, array in self.inputs.items()
        }
