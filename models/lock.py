"""The guard against solver lock: what finer steps would change while fixed ones are trained with.

A network trained through steps that are too coarse learns the solver's error; it shows as outputs
that move when the steps are halved. ``odedeploy check`` tells it of a finished model, this of one
that is still being trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from odedeploy.models.tasks import Batch, Task

LOCKED = 0.1
"""The share of the outputs' norm beyond which a model is on its way to being locked, as in
``odedeploy check``."""


class Stepping(Protocol):
    """What a model provides that solves by equal steps, an ``nn.Module``: how many."""

    steps: int


@torch.no_grad()
def moved(trained: Task, plain: Task, model: nn.Module, batch: Batch) -> float | None:
    """How far the outputs move when the steps are halved; None for a model without fixed steps.

    ‖finer − coarse‖ / ‖finer‖ for each sample of the batch, the 0.9 quantile. ``trained`` is the
    task as it is trained and ``plain`` the one in which nothing stands in for the model's own
    solve: where they differ, that solve is the finer one.
    """
    if isinstance(getattr(model, "steps", None), int):
        coarse = _outputs(trained, model, batch)
        with _halved(cast(Stepping, model)):
            finer = _outputs(trained, model, batch)
    elif trained.recipe.regularisers:
        with torch.enable_grad():  # the penalties are gradients
            coarse = _outputs(trained, model, batch)
        *own, _ = batch  # without what the penalties draw from
        finer = _outputs(plain, model, tuple(own))
    else:
        return None
    if not finer.numel():
        return None
    distance = (finer - coarse).norm(dim=1) / finer.norm(dim=1).clamp_min(1e-12)
    return distance.quantile(0.9).item()


def _outputs(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    """What the model answers inside the task's loss, a row a sample."""
    seen: list[Tensor] = []
    hook = model.register_forward_hook(lambda _, __, output: seen.append(output.detach()))
    try:
        task.loss(model, batch)
    finally:
        hook.remove()
    return torch.cat([output.flatten(1) for output in seen], dim=1) if seen else torch.empty(0)


@contextmanager
def _halved(model: Stepping) -> Iterator[None]:
    model.steps *= 2
    try:
        yield
    finally:
        model.steps //= 2
