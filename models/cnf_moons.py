"""``cnf-moons``: a continuous normalizing flow of two interleaved half circles in the plane."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

from odedeploy.errors import BadInput
from odedeploy.models import cnf
from odedeploy.models.tasks import Batch, Metrics, Recipe, Task

NAME = "cnf-moons"
SPREAD = 0.1
"""Standard deviation of the noise around the half circles, whose radius is 1."""

CALIBRATION = 2048
EPOCH = 12_800
RECIPE = Recipe(
    epochs=24, tolerances=(1e-3,) * 20 + (1e-5,) * 4, batch=128, learning_rate=5e-3,
    weight_decay=0.0, averaging=0.99,
)  # fmt: skip
FACTS = {
    "name": "two moons",
    "source": "two half circles of radius 1 with normal noise of standard deviation 0.1, drawn",
    "licence": "none needed",
    "training": f"fresh draws at every step, {EPOCH:,} an epoch",
    "held_out": f"{CALIBRATION:,} draws of seed 0, the calibration inputs",
    "test": "16,384 draws of seed 1: mean of −log p in nats",
}


def build() -> tuple[cnf.LogDensity, dict[str, np.ndarray]]:
    """The log-density in eval mode, and ``x``: 2,048 points that no training step saw."""
    return cnf.trained(cnf.LogDensity, 2, NAME), {"x": points(CALIBRATION, 0)}


def build_sampler() -> tuple[cnf.Sampler, dict[str, np.ndarray]]:
    """The sampler in eval mode, and ``noise``: 2,048 standard normal draws."""
    return cnf.trained(cnf.Sampler, 2, NAME), {"noise": cnf.normal(CALIBRATION, 2)}


def task(data: Path | None = None) -> Task:
    """Maximise the likelihood of points on two moons, drawn anew at every step.

    Raises BadInput for a folder of data: there is none.
    """
    if data is not None:
        raise BadInput(f"{NAME} draws its own points; leave --data {data} out.")

    def batch(rows: Tensor, generator: Generator) -> Batch:
        return (moons(torch.rand(len(rows), 2, generator=generator),
                      torch.randn(len(rows), 2, generator=generator)),)  # fmt: skip

    return Task(
        name=NAME,
        model=lambda: cnf.LogDensity(2),
        size=EPOCH,
        batch=batch,
        loss=loss,
        held_out=lambda flow: cnf.nll(flow, torch.from_numpy(points(CALIBRATION, 0))),
        test=lambda flow: cnf.nll(flow, torch.from_numpy(points(16_384, 1))),
        recipe=RECIPE,
        data=FACTS,
    )


def loss(flow: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
    """Mean of −log p over points (n, 2), in nats."""
    return -flow(batch[0])[:, -1].mean(), {}


def moons(uniform: Tensor, noise: Tensor) -> Tensor:
    """Points (n, 2) from draws (n, 2) on [0, 1): which moon and where on it; and their noise."""
    upper, angle = uniform[:, 0] < 0.5, math.pi * uniform[:, 1]
    x = torch.where(upper, angle.cos() - 0.5, 0.5 - angle.cos())
    y = torch.where(upper, angle.sin() - 0.25, 0.25 - angle.sin())
    return torch.stack([x, y], dim=1) + SPREAD * noise


def points(count: int, seed: int) -> np.ndarray:
    """(count, 2) float32 points on the moons."""
    random = np.random.default_rng(seed)
    uniform, noise = random.random((count, 2)), random.standard_normal((count, 2))
    drawn: np.ndarray = moons(torch.from_numpy(uniform), torch.from_numpy(noise)).float().numpy()
    return drawn


def true_log_density(x: np.ndarray, nodes: int = 1000) -> np.ndarray:
    """log p of points (n, 2) on the moons, in nats: the midpoint rule over ``nodes`` angles."""
    at = (np.arange(nodes) + 0.5) / nodes
    still = torch.zeros(nodes, 2, dtype=torch.float64)
    centres = torch.cat([
        moons(torch.from_numpy(np.stack([np.full(nodes, moon), at], 1)), still)
        for moon in (0.0, 1.0)
    ])  # fmt: skip
    squares = torch.cdist(torch.from_numpy(x.astype(np.float64)), centres).square()
    scale = math.log(2 * nodes) + math.log(2 * math.pi * SPREAD**2)
    found: np.ndarray = torch.logsumexp(squares / (-2 * SPREAD**2), dim=1).numpy() - scale
    return found
