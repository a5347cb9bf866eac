"""``latent-ode-spirals``: the latent ODE of Chen et al. 2018 on spirals seen at irregular times.

A recognition network reads noisy observations backwards and gives a Gaussian over the latent state
at t = 0; an autonomous vector field carries the state to any time; a decoder gives the position.

The recognition network is a gated recurrence whose last state is a sum, for any number of
observations. It reads twice: the second time knowing what the first time told.

Every query is a solve of its own over s ∈ [0, 1], with the field scaled by the query time. How many
queries there are, and at which times, is thereby free for every sample.

Source: Chen, Rubanova, Bettencourt, Duvenaud, *Neural Ordinary Differential Equations*,
NeurIPS 2018 (arXiv 1806.07366), section 5.1.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import pad
from torchdiffeq import odeint

from odedeploy.models import publishing, spirals
from odedeploy.models.recurrence import Recurrence
from odedeploy.models.tasks import Batch, Metrics, Recipe, Task

NAME = "latent-ode-spirals"
LATENT, HIDDEN, RECOGNITION = 4, 20, 25
CALIBRATION = 2048
QUERIES = 12
"""Query times of a calibration input; an exported file takes any number."""

DRAWS = 20
"""How often an epoch sees a trajectory, each time with other observations."""

EVERY = 10
"""A training step compares every tenth point of a trajectory, the first drawn anew, and gets from
one to the next by a step of RK4, 0.38 rad on a spiral."""

LATER = 5
"""How many of these points, from the second on, may begin the part that is read by itself."""

FEWEST = 3
"""Observations of a part that tell something about its state."""

RECIPE = Recipe(
    epochs=32,
    batch=100,
    learning_rate=1e-2,
    weight_decay=1e-4,
    averaging=0.995,
)


class Recognition(nn.Module):
    """Values (batch, n, 2) at times (batch, n) → mean and log-variance (batch, latent) at t = 0."""

    def __init__(self, latent: int = LATENT, size: int = RECOGNITION) -> None:
        super().__init__()
        self.first = Recurrence(4, size, backwards=True)
        self.second = Recurrence(4 + size, size, backwards=True)
        self.posterior = nn.Linear(2 * size, 2 * latent)

    def forward(self, values: Tensor, times: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        gaps = times - pad(times, (1, 0))[:, :-1]
        seen = torch.cat([values, times[..., None], gaps[..., None]], dim=-1)
        told = self.first(seen, mask)
        knowing = told[:, None].expand(-1, seen.shape[1], -1)
        again = self.second(torch.cat([seen, knowing], dim=-1), mask)
        mean, log_variance = self.posterior(torch.cat([told, again], dim=-1)).chunk(2, dim=-1)
        return mean, log_variance


class VectorField(nn.Module):
    """f(z) of a latent state (…, latent); it does not depend on time."""

    def __init__(self, latent: int = LATENT, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Linear(hidden, latent),
        )
        self.evaluations = 0

    def forward(self, z: Tensor) -> Tensor:
        self.evaluations += 1
        out: Tensor = self.layers(z)
        return out


class LatentOde(nn.Module):
    """Where a trajectory is at query times, from irregular and noisy observations of it.

    ``tolerance`` is rtol = atol of the adaptive solve.
    """

    dynamic_axes = {
        "values": {1: "observations"},
        "times": {1: "observations"},
        "mask": {1: "observations"},
        "query": {1: "queries"},
    }

    def __init__(
        self,
        latent: int = LATENT,
        hidden: int = HIDDEN,
        recognition: int = RECOGNITION,
        tolerance: float = 1e-5,
    ) -> None:
        super().__init__()
        self.recognition = Recognition(latent, recognition)
        self.field = VectorField(latent, hidden)
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.Tanh(), nn.Linear(hidden, 2))
        self.tolerance = tolerance

    @property
    def evaluations(self) -> int:
        """Evaluations of the vector field so far."""
        return self.field.evaluations

    def forward(self, values: Tensor, times: Tensor, mask: Tensor, query: Tensor) -> Tensor:
        """Positions (batch, queries, 2) at ``query`` (batch, queries).

        ``values`` (batch, observations, 2) are at ascending ``times`` (batch, observations);
        ``mask`` is 1 for an observation and 0 for padding.
        """
        start, _ = self.recognition(values, times, mask)
        span = query[..., None]
        start = start[:, None] * torch.ones_like(span)
        positions: Tensor = self.decoder(
            self._solve(lambda s, z: span * self.field(z), start, torch.tensor([0.0, 1.0]))[-1]
        )
        return positions

    def trajectories(self, start: Tensor, times: Tensor, method: str = "dopri5") -> Tensor:
        """Positions (batch, n, 2) at n ``times`` that all samples share, by a single solve."""
        positions: Tensor = self.decoder(self.states(start, times, method))
        return positions

    def states(self, start: Tensor, times: Tensor, method: str = "dopri5") -> Tensor:
        """Latent states (batch, n, latent) at n ``times``, the first of them that of ``start``.

        A ``method`` with fixed steps steps from time to time.
        """
        return self._solve(lambda t, z: self.field(z), start, times, method).transpose(0, 1)

    def _solve(
        self, field: object, start: Tensor, times: Tensor, method: str = "dopri5"
    ) -> Tensor:
        tolerance = self.tolerance
        times = times.to(start)
        return cast(
            Tensor, odeint(field, start, times, rtol=tolerance, atol=tolerance, method=method)
        )


def build() -> tuple[LatentOde, dict[str, np.ndarray]]:
    """The trained model in eval mode, and 2,048 trajectories of their own seed with 12 queries.

    They have 10 to 100 observations, padded to 100, and query times in [0, 2].
    """
    model = LatentOde()
    model.load_state_dict(publishing.shipped_weights(NAME))
    return model.eval(), calibration()


def calibration(count: int = CALIBRATION, seed: int = spirals.CALIBRATION) -> dict[str, np.ndarray]:
    """Inputs by name: observations of ``count`` trajectories, and query times."""
    drawn = spirals.draw(count, seed)
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(10, spirals.POINTS + 1, (count,), generator=generator)
    seen = spirals.observe(drawn, counts, generator)
    query = 2 * torch.rand(count, QUERIES, generator=generator)
    return {name: tensor.numpy() for name, tensor in seen._asdict().items()} | {
        "query": query.sort(dim=1).values.numpy()
    }


def task(data: Path | None = None) -> Task:
    """Learn 1,000 spirals from 10 to 100 observations of the first half of each.

    The trajectories are made from a seed; ``data`` is not read. Held out are 250 others, the test
    1,000 more.
    """
    return learn(LatentOde, RECIPE, spirals.TRAINING_COUNT)


def learn(
    model: type[LatentOde], recipe: Recipe, count: int, known: int = len(spirals.TIMES)
) -> Task:
    """The task of training ``model`` on the first ``known`` points of ``count`` trajectories."""
    drawn = spirals.draw(count, spirals.TRAINING)

    def batch(rows: Tensor, generator: Generator) -> Batch:
        chosen = drawn.rows(rows % count)
        counts = torch.randint(10, spirals.POINTS + 1, (len(rows),), generator=generator)
        seen = spirals.observe(chosen, counts, generator)
        noise = torch.randn(len(rows), 2, LATENT, generator=generator)
        first, later = (int(torch.randint(1, most + 1, (1,), generator=generator))
                        for most in (EVERY, LATER))  # fmt: skip
        points = torch.tensor([0, *range(first, known, EVERY)])
        when = spirals.TIMES[points]
        return (*seen, when, chosen.noisy[:, points], noise, torch.tensor(1 + later))

    return Task(
        name=NAME,
        model=model,
        size=DRAWS * count,
        batch=batch,
        loss=partial(loss, points=known),
        held_out=lambda trained: measure(cast(LatentOde, trained), 250, spirals.HELD_OUT),
        test=lambda trained: measure(cast(LatentOde, trained), spirals.TEST_COUNT, spirals.TEST),
        recipe=recipe,
        data=spirals.FACTS,
    )


def loss(
    model: nn.Module, batch: Batch, points: int = len(spirals.TIMES)
) -> tuple[Tensor, Metrics]:
    """Negative evidence lower bound of a trajectory of so many ``points``, per point, and what
    ties the states that it runs through to those that are read off its later part; RMSE to its
    noisy points.

    The bound alone leaves open where in latent space a reading begins, so that a trajectory may
    run into states that no reading begins at, and beyond the times of training the field is free.
    Here the part after a time is read by itself, as a trajectory that begins there: its posterior
    has to expect the state that the solve has reached, and a state drawn from it to predict the
    rest.

    ``batch`` is what ``learn`` draws for n samples: the three parts of ``spirals.Observed``, k
    ascending times (k,), noisy points (n, k, 2) at them, standard normal draws (n, 2, latent), and
    the place among the times at which the later part begins.
    """
    *parts, when, target, noise, later = batch
    latent_ode, seen, k = cast(LatentOde, model), spirals.Observed(*parts), int(later)
    mean, log_variance = latent_ode.recognition(*seen)
    start = mean + noise[:, 0] * torch.exp(0.5 * log_variance)
    states = latent_ode.states(start, when, "rk4")
    squares = (latent_ode.decoder(states) - target).square()
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)

    rest = spirals.since(seen, when[k])
    told = (rest.mask.sum(dim=1) >= FEWEST).float()
    mean, log_variance = latent_ode.recognition(*rest)
    distance = (states[:, k] - mean).square() / log_variance.exp()
    surprise = 0.5 * (distance + log_variance).sum(dim=1)
    start = mean + noise[:, 1] * torch.exp(0.5 * log_variance)
    onwards = latent_ode.trajectories(start, when[k:] - when[k], "rk4") - target[:, k:]
    both = squares.sum(dim=2).mean(dim=1) + told * onwards.square().sum(dim=2).mean(dim=1)
    total = both / (2 * spirals.NOISE**2) + (divergence + told * surprise) / points
    return total.mean(), {"rmse": squares.mean().sqrt().item()}


@torch.no_grad()
def measure(model: LatentOde, count: int, seed: int) -> Metrics:
    """Predictive RMSE by number of observations: the second half against the noiseless truth."""
    drawn = spirals.draw(count, seed)
    device = next(model.parameters()).device
    found = {}
    for observations in spirals.OBSERVATIONS:
        generator = torch.Generator().manual_seed(seed)
        seen = spirals.observe(drawn, torch.full((count,), observations), generator)
        start, _ = model.recognition(*(tensor.to(device) for tensor in seen))
        times = torch.cat([torch.zeros(1), spirals.TIMES[spirals.POINTS :]])
        path = model.trajectories(start, times)[:, 1:].cpu()
        found[f"rmse_{observations}"] = spirals.rmse(path, drawn.true[:, spirals.POINTS :])
    return found
