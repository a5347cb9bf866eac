"""The training loop shared by the reference models: seeded, atomic checkpoints, resumable.

A run is a function of (recipe, seed, data) alone: the order of an epoch's batches is drawn from
(seed, epoch) and a batch's augmentation from (seed, step), so a run that was killed and resumed
takes the same steps as one that was not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. ``tolerances`` gives rtol = atol, forward and adjoint, per epoch."""

    tolerances: tuple[float, ...]
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    clip: float = 1.0

    @property
    def epochs(self) -> int:
        return len(self.tolerances)


@dataclass(frozen=True)
class Progress:
    """Where a run is: losses and accuracies are means since the last report."""

    epoch: int
    epochs: int
    step: int
    steps: int
    tolerance: float
    loss: float
    accuracy: float
    forward_evaluations: float
    backward_evaluations: float
    seconds: float
    held_out_accuracy: float | None = None


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    seed: int,
    checkpoint: Path,
    augment: Callable[[Tensor, torch.Generator], Tensor],
    evaluate: Callable[[nn.Module], float],
    report: Callable[[Progress], None],
    every: int = 20,
) -> float:
    """Train ``model`` in place on images (n, …) and labels (n,); return the seconds spent.

    ``model`` carries ``tolerance``, ``adjoint_tolerance`` and ``field.evaluations``. A checkpoint
    of the same recipe and seed is resumed; ``every`` is its interval in steps.
    """
    per_epoch = len(images) // recipe.batch
    total = per_epoch * recipe.epochs
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.learning_rate, total_steps=total, pct_start=0.25
    )
    start, spent = _resume(checkpoint, model, optimizer, schedule, recipe, seed)
    clock = time.monotonic() - spent
    model.train()
    window: list[tuple[float, float, int, int]] = []
    for step, rows in _batches(len(images), recipe, seed, start, total):
        epoch = step // per_epoch
        model.tolerance = model.adjoint_tolerance = recipe.tolerances[epoch]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        batch = augment(images[rows], generator)
        window.append(_step(model, batch, labels[rows], optimizer, recipe.clip))
        schedule.step()
        done = step + 1
        ends_epoch = done % per_epoch == 0
        if done % every == 0 or ends_epoch:
            spent = time.monotonic() - clock
            _save(checkpoint, model, optimizer, schedule, recipe, seed, done, spent)
            loss, accuracy, forward, backward = (sum(c) / len(window) for c in zip(*window))
            held_out = evaluate(model) if ends_epoch else None
            report(
                Progress(epoch + 1, recipe.epochs, done, total, recipe.tolerances[epoch],
                         loss, accuracy, forward, backward, spent, held_out)
            )
            window.clear()
    model.eval()
    return time.monotonic() - clock


def _step(
    model: nn.Module, batch: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer, clip: float
) -> tuple[float, float, int, int]:
    field = model.field
    field.evaluations = 0
    logits = model(batch)
    forward = field.evaluations
    loss = nn.functional.cross_entropy(logits, labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return loss.item(), accuracy, forward, field.evaluations - forward


def _batches(
    n: int, recipe: Recipe, seed: int, start: int, total: int
) -> Iterator[tuple[int, Tensor]]:
    per_epoch = n // recipe.batch
    for epoch in range(start // per_epoch, recipe.epochs):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + 7919 * epoch))
        for step in range(max(start, epoch * per_epoch), (epoch + 1) * per_epoch):
            first = (step - epoch * per_epoch) * recipe.batch
            yield step, order[first : first + recipe.batch]


def _save(path, model, optimizer, schedule, recipe, seed, step, seconds) -> None:
    state = {
        "recipe": asdict(recipe), "seed": seed, "step": step, "seconds": seconds,
        "model": model.state_dict(), "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def _resume(path, model, optimizer, schedule, recipe, seed) -> tuple[int, float]:
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    if state["recipe"] != asdict(recipe) or state["seed"] != seed:
        return 0, 0.0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return state["step"], state["seconds"]
