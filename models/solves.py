"""Solves that stand in for a model's own in training, and the door by which they do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchdiffeq import odeint

from odedeploy.errors import BadInput
from odedeploy.models.tasks import Batch, Metrics, Replaceable, Solving, Task, Through


@contextmanager
def standing_in(model: nn.Module, through: Through) -> Iterator[None]:
    """Within the block ``model`` solves by ``through``; raises BadInput where it cannot."""
    if not hasattr(model, "through"):
        raise BadInput(
            f"{type(model).__name__} has no adaptive solve that another can stand in for; leave "
            "--regularise and --checkpoints away."
        )
    replaceable = cast(Replaceable, model)
    replaceable.through = through
    try:
        yield
    finally:
        replaceable.through = None


def segmented(
    field: nn.Module, start: Tensor, t0: float, t1: float, *, segments: int, **options: Any
) -> Tensor:
    """The checkpointed adjoint: the state at ``t1``, with states kept at ``segments`` times.

    ``options`` are those of ``torchdiffeq.odeint``. The way back solves each segment forward again,
    from the state kept at its start, and backpropagates through its steps: memory is that of the
    kept states and of one segment, the gradient that of the steps taken, and nothing is ever
    integrated backwards in time.
    """

    def segment(state: Tensor, k: int) -> Tensor:
        ends = [t0 + (t1 - t0) * (k + i) / segments for i in (0, 1)]
        times = torch.tensor(ends, dtype=state.dtype, device=state.device)
        end: Tensor = odeint(field, state, times, **options)[-1]
        return end

    for k in range(segments):
        start = checkpoint(segment, start, k, use_reentrant=False)
    return start


def checkpointed(task: Task) -> Task:
    """The task whose model is trained by the checkpointed adjoint of its recipe."""

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        tolerance = cast(Solving, model).tolerance
        options: dict[str, Any] = {"rtol": tolerance, "atol": tolerance, "method": "dopri5"}
        through = partial(segmented, segments=task.recipe.checkpoints, **options)
        with standing_in(model, through):
            return task.loss(model, batch)

    return replace(task, loss=loss)
