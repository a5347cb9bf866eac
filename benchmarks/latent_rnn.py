"""The RNN that ``latent-ode-spirals`` is measured against, and its training."""

from __future__ import annotations

from typing import cast

import torch
from torch import Generator, Tensor, nn

from odedeploy.models import spirals
from odedeploy.models.latent_ode import DRAWS
from odedeploy.models.tasks import Batch, Metrics, Recipe, Task

NAME = "rnn-spirals"
SIZE = 37
"""States of the GRU, which give it as many parameters as the latent ODE has."""

RECIPE = Recipe(epochs=32, batch=50, learning_rate=1e-2, weight_decay=1e-4, averaging=0.995)


class GapRnn(nn.Module):
    """A GRU that reads (x, y, time to the next point) and predicts the next point."""

    def __init__(self, size: int = SIZE) -> None:
        super().__init__()
        self.cell = nn.GRU(3, size, batch_first=True)
        self.decoder = nn.Linear(size, 2)

    def forward(self, values: Tensor, gaps: Tensor) -> Tensor:
        """The change (batch, n, 2) from each of ``values`` to the point ``gaps`` (batch, n) on."""
        states, _ = self.cell(torch.cat([values, 10 * gaps[..., None]], dim=-1))
        change: Tensor = self.decoder(states)
        return change

    def continued(self, values: Tensor, times: Tensor, mask: Tensor, ahead: Tensor) -> Tensor:
        """Predictions (batch, k, 2) at k ascending times that all samples share, each read again.

        They follow the observations in ``spirals.Observed``.
        """
        counts = mask.sum(1).long()
        rows = torch.arange(len(values))
        following = torch.cat([times[:, 1:], torch.zeros_like(times[:, :1])], dim=1)
        following[rows, counts - 1] = ahead[0]
        gaps = (following - times)[..., None] * 10
        states, _ = self.cell(torch.cat([values, gaps], dim=-1))
        state = states[rows, counts - 1]
        point = values[rows, counts - 1] + self.decoder(state)
        found = [point]
        for gap in (ahead[1:] - ahead[:-1]).tolist():
            given = torch.cat([point, torch.full_like(point[:, :1], 10 * gap)], dim=-1)
            _, last = self.cell(given[:, None], state[None])
            state = last[0]
            point = point + self.decoder(state)
            found.append(point)
        return torch.stack(found, dim=1)


def task(
    count: int = spirals.TRAINING_COUNT,
    recipe: Recipe = RECIPE,
    known: int = len(spirals.TIMES),
) -> Task:
    """Predict the next point; the data and their draws as for the latent ODE.

    Of each trajectory the observations are read, and the points after them of the ``known`` ones.
    """
    drawn = spirals.draw(count, spirals.TRAINING)

    def batch(rows: Tensor, generator: Generator) -> Batch:
        counts = torch.randint(10, spirals.POINTS + 1, (len(rows),), generator=generator)
        return through(drawn.rows(rows % count), counts, generator, known)

    return Task(
        name=NAME,
        model=GapRnn,
        size=DRAWS * count,
        batch=batch,
        loss=loss,
        held_out=lambda trained: measure(cast(GapRnn, trained), 250, spirals.HELD_OUT),
        test=lambda trained: measure(cast(GapRnn, trained), spirals.TEST_COUNT, spirals.TEST),
        recipe=recipe,
        data=spirals.FACTS,
    )


def through(
    drawn: spirals.Spirals, counts: Tensor, generator: Generator, known: int
) -> Batch:
    """Values, times and mask (n, known, …): observations, and all that follows, padding last."""
    seen = spirals.observe(drawn, counts, generator)
    second = slice(spirals.POINTS, known)
    after, later = drawn.noisy[:, second], spirals.TIMES[second]
    values = torch.cat([seen.values, after], dim=1)
    times = torch.cat([seen.times, later.expand(len(after), -1)], dim=1)
    mask = torch.cat([seen.mask, torch.ones(after.shape[:2])], dim=1)
    order = torch.sort(mask, dim=1, descending=True, stable=True).indices
    values = torch.gather(values, 1, order[..., None].expand(-1, -1, 2))
    return values, torch.gather(times, 1, order), torch.gather(mask, 1, order)


def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
    """Negative Gaussian log-likelihood of every next point, up to a constant."""
    values, times, mask = batch
    change = model(values[:, :-1], times[:, 1:] - times[:, :-1])
    squares = ((values[:, 1:] - values[:, :-1] - change) * mask[:, 1:, None]).square()
    mean = squares.sum() / (2 * mask[:, 1:].sum())
    return mean / spirals.NOISE**2, {"rmse": mean.sqrt().item()}


@torch.no_grad()
def measure(model: GapRnn, count: int, seed: int) -> Metrics:
    """As the latent ODE is measured: the second half against the noiseless truth."""
    drawn = spirals.draw(count, seed)
    found = {}
    for observations in spirals.OBSERVATIONS:
        generator = torch.Generator().manual_seed(seed)
        seen = spirals.observe(drawn, torch.full((count,), observations), generator)
        path = model.continued(*seen, spirals.TIMES[spirals.POINTS :])
        found[f"rmse_{observations}"] = spirals.rmse(path, drawn.true[:, spirals.POINTS :])
    return found
