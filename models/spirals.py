"""Spirals in the plane, run outwards or inwards from a random point, with noise.

Both kinds run along one Archimedean spiral, r = 0.3 θ up to θ = 6π: half of the trajectories
anticlockwise and outwards, half clockwise and inwards. A trajectory has 200 points, 1.2 turns; the
first 100 may be observed, at t in [0, 1), the other 100 are to be predicted; of training
trajectories both are known.

After Chen et al. 2018, section 5.1, and its published example (noise of 0.3, 500 points in 6π).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

POINTS = 100
"""Points that may be observed, and as many to predict."""

NOISE = 0.3
RADIUS = 0.3
TURN = 1.2 * math.pi
"""Angle run through in a unit of time."""

OBSERVATIONS = (30, 50, 100)
TRAINING, HELD_OUT, TEST, CALIBRATION = 0, 1, 2, 3
"""Seeds of the parts; they share no trajectory."""

TRAINING_COUNT, TEST_COUNT = 1000, 1000
TIMES = torch.arange(2 * POINTS, dtype=torch.float32) / POINTS

FACTS = {
    "name": "spirals",
    "source": "made from seeds, after Chen et al. 2018, section 5.1",
    "licence": "none needed",
    "training": "1,000 trajectories, seed 0",
    "held_out": "RMSE of the second halves of 250 trajectories, seed 1, by observations",
    "test": "RMSE of the second halves of 1,000 trajectories, seed 2, by observations",
    "calibration": "2,048 trajectories, seed 3",
}


class Spirals(NamedTuple):
    """Positions (count, 200, 2): the true ones, and those with noise."""

    true: Tensor
    noisy: Tensor

    def rows(self, rows: Tensor) -> Spirals:
        return Spirals(self.true[rows], self.noisy[rows])


class Observed(NamedTuple):
    """Values (count, 100, 2), ascending times (count, 100) and mask (count, 100), padded with 0."""

    values: Tensor
    times: Tensor
    mask: Tensor


def draw(count: int, seed: int) -> Spirals:
    """``count`` trajectories, float32, with their noise."""
    generator = torch.Generator().manual_seed(seed)
    lowest, highest = 0.2 * TURN, 6 * math.pi - 2.2 * TURN
    start = lowest + (highest - lowest) * torch.rand(count, 1, generator=generator)
    outwards = torch.arange(count)[:, None] % 2 == 0
    run = TURN * TIMES
    angle = torch.where(outwards, start + run, start + 2 * TURN - run)
    true = RADIUS * angle[..., None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    return Spirals(true, true + NOISE * torch.randn(true.shape, generator=generator))


def observe(spirals: Spirals, counts: Tensor, generator: Generator) -> Observed:
    """``counts`` (count,) of the first 100 points of each trajectory, drawn without replacement."""
    chance = torch.rand(len(counts), POINTS, generator=generator)
    chosen = chance.argsort(dim=1).argsort(dim=1) < counts[:, None]
    order = torch.where(chosen, TIMES[:POINTS], 2.0).argsort(dim=1)
    mask = torch.gather(chosen.float(), 1, order)
    times = TIMES[order] * mask
    values = torch.gather(spirals.noisy, 1, order[..., None].expand(-1, -1, 2)) * mask[..., None]
    return Observed(values, times, mask)


def since(seen: Observed, time: Tensor) -> Observed:
    """The observations from ``time`` on, at times counted from it, padded to the most of them."""
    kept = seen.mask * (seen.times >= time)
    order = torch.where(kept > 0, seen.times, 2.0).argsort(dim=1)[:, : int(kept.sum(1).max())]
    mask = torch.gather(kept, 1, order)
    times = (torch.gather(seen.times, 1, order) - time) * mask
    values = torch.gather(seen.values, 1, order[..., None].expand(-1, -1, 2)) * mask[..., None]
    return Observed(values, times, mask)


def rmse(found: Tensor, true: Tensor) -> float:
    """Root of the mean squared distance in one coordinate."""
    return (found - true).square().mean().sqrt().item()
