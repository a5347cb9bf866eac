"""The guard against solver lock: what finer steps would change while fixed ones are trained with.

A network trained through steps that are too coarse learns the solver's error; it shows as outputs
that move when the steps are halved. ``odedeploy check`` tells it of a finished model, this of one
that is still being trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from odedeploy.models.regularisers import REGULARISERS, regularised
from odedeploy.models.tasks import Batch, Task

LOCKED = 0.1
"""The share of the outputs' norm beyond which a model is on its way to being locked, as in
``odedeploy check``."""


class Stepping(Protocol):
    """What a model provides that solves by equal steps, an ``nn.Module``: how many."""

    steps: int


@torch.no_grad()
def moved(task: Task, model: nn.Module, batch: Batch) -> float | None:
    """How far the outputs move when the steps are halved; None for a model without fixed steps.

    ‖finer − coarse‖ / ‖finer‖ for each sample of the batch, the 0.9 quantile. For a regularised
    task, whose ``batch`` ends with what its penalties draw from, the model's own solve is the finer
    one, to the same end.
    """
    weights = task.recipe.regularisers
    if weights:
        steady = tuple(pair for pair in weights if REGULARISERS[pair[0]].end is None)
        trained = regularised(replace(task, recipe=task.recipe.regularised(steady)))
        with torch.enable_grad():  # the penalties are gradients
            coarse = _outputs(trained, model, batch)
        finer = _outputs(task, model, batch[:-1])
    elif isinstance(getattr(model, "steps", None), int):
        coarse = _outputs(task, model, batch)
        with _halved(cast(Stepping, model)):
            finer = _outputs(task, model, batch)
    else:
        return None
    if not finer.numel():
        return None
    distance = (finer - coarse).norm(dim=1) / finer.norm(dim=1).clamp_min(1e-12)
    return float(distance.quantile(0.9))


def _outputs(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    """What the model answers inside the task's loss, a row a sample."""
    seen: list[Tensor] = []

    def look(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            seen.append(output.detach().flatten(1))

    hook = model.register_forward_hook(look)
    try:
        task.loss(model, batch)
    finally:
        hook.remove()
    return torch.cat(seen, dim=1) if seen else torch.empty(0)


@contextmanager
def _halved(model: Stepping) -> Iterator[None]:
    model.steps *= 2
    try:
        yield
    finally:
        model.steps //= 2
