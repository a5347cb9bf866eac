"""``cnf-tabular``: a continuous normalizing flow of ten measured columns."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Generator, Tensor, nn

from odedeploy.errors import BadInput
from odedeploy.models import cnf, magic
from odedeploy.models.tasks import Batch, Metrics, Recipe, Task

NAME = "cnf-tabular"
RECIPE = Recipe(
    epochs=80, tolerances=(1e-3,) * 64 + (1e-5,) * 16, batch=512, learning_rate=5e-3,
    weight_decay=0.0, averaging=0.99,
)  # fmt: skip


def build() -> tuple[cnf.LogDensity, dict[str, np.ndarray]]:
    """The log-density in eval mode, and ``x``: 2,048 standardised rows held out of training."""
    return cnf.trained(cnf.LogDensity, magic.COLUMNS, NAME), {"x": magic.load("held-out")}


def build_hutchinson() -> tuple[cnf.HutchinsonLogDensity, dict[str, np.ndarray]]:
    """The log-density by a random trace in eval mode; ``x`` as for ``build``, ``noise`` ±1."""
    x = magic.load("held-out")
    flow = cnf.trained(cnf.HutchinsonLogDensity, magic.COLUMNS, NAME)
    return flow, {"x": x, "noise": cnf.signs(*x.shape)}


def build_sampler() -> tuple[cnf.Sampler, dict[str, np.ndarray]]:
    """The sampler in eval mode, and ``noise``: 2,048 standard normal draws."""
    noise = cnf.normal(magic.HELD_OUT, magic.COLUMNS)
    return cnf.trained(cnf.Sampler, magic.COLUMNS, NAME), {"noise": noise}


def task(data: Path | None = None) -> Task:
    """Maximise the likelihood of MAGIC's rows, with the trace along random signs.

    Raises BadInput for a folder of data: the rows are shipped.
    """
    if data is not None:
        raise BadInput(f"{NAME} is trained on the rows it ships; leave --data {data} out.")
    rows = torch.from_numpy(magic.load("train"))

    def batch(chosen: Tensor, generator: Generator) -> Batch:
        x = rows[chosen]
        return x, 2.0 * torch.randint(0, 2, x.shape, generator=generator) - 1

    return Task(
        name=NAME,
        model=lambda: cnf.LogDensity(magic.COLUMNS),
        size=len(rows),
        batch=batch,
        loss=loss,
        held_out=lambda flow: cnf.nll(flow, torch.from_numpy(magic.load("held-out"))),
        test=lambda flow: cnf.nll(flow, torch.from_numpy(magic.load("test"))),
        recipe=RECIPE,
        data=magic.FACTS,
    )


def loss(flow: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
    """Mean over (x, noise) of −log p, in nats, the trace taken along the noise."""
    x, noise = batch
    return -cast(cnf.Flow, flow).encode(x, noise[None])[1].mean(), {}
