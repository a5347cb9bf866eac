"""What a plan's alarm, and the fit of one, read from the slopes of a forward in PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from odedeploy.executor import States
from odedeploy.program import Alarm

Slopes = dict[str, dict[int, States]]
"""Site → number of the slope → derivatives, one per state tensor."""


def alarm_of(alarm: Alarm, slopes: Slopes) -> Tensor:
    """The alarm of every input, shape (batch,) float32; infinite where it is not a number."""
    squares = []
    for residual in alarm.residuals:
        for i, axis, rows in residual.watched:
            stacked = torch.stack([slopes[residual.site][j][i] for j in residual.slopes])
            coefficients = torch.as_tensor(rows, dtype=stacked.dtype, device=stacked.device)
            combined = torch.tensordot(coefficients, stacked, 1).float()
            others = [d for d in range(combined.dim()) if d != axis + 1]
            squares.append((combined**2).sum(others))
    value = torch.sqrt(torch.stack(squares).sum(0))
    return torch.where(value <= torch.finfo(value.dtype).max, value, torch.inf)


def grams_of(alarm: Alarm, slopes: Slopes) -> list[list[np.ndarray]]:
    """⟨slope_a, slope_b⟩ of every input, (batch, m, m) float64, by residual and watched tensor."""
    found: list[list[np.ndarray]] = []
    for residual in alarm.residuals:
        found.append([])
        for i, axis, _ in residual.watched:
            stacked = torch.stack([slopes[residual.site][j][i] for j in residual.slopes])
            vectors = stacked.double().movedim(axis + 1, 0)
            vectors = vectors.reshape(*vectors.shape[:2], -1)
            found[-1].append((vectors @ vectors.transpose(1, 2)).numpy())
    return found
