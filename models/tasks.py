"""What the training loop is given and what it tells: task, recipe, progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Generator, Tensor, nn

from odedeploy.errors import BadInput

Batch = tuple[Tensor, ...]
Metrics = dict[str, float]
Weighted = tuple[tuple[str, float], ...]
"""Pairs of name and weight."""

Through = Callable[[nn.Module, Tensor, float, float], Tensor]
"""(field, start, t0, t1) → the state at t1, the field being called as field(t, y)."""


class Solving(Protocol):
    """What the loop sets and reads on a model, an ``nn.Module``, that solves ODEs in training.

    ``tolerance`` and ``adjoint_tolerance`` are rtol = atol of the forward and the backward solve;
    ``evaluations`` counts the vector field's evaluations so far, in both directions.
    """

    tolerance: float
    adjoint_tolerance: float

    @property
    def evaluations(self) -> int: ...


class Regularisable(Protocol):
    """What a model that can be regularised provides, an ``nn.Module``.

    It solves by ``through(field, start, t0, t1)``, which gives the state at t1, where one is set,
    and by its own solve where it is None.
    """

    through: Through | None


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: AdamW with a one-cycle learning rate and clipped gradients.

    ``tolerances`` gives rtol = atol, forward and adjoint, for each epoch; it is empty for a model
    that solves nothing in training. ``averaging`` is the decay per step of the weights' moving
    average, which is measured and published instead of the last weights; 0 keeps none.
    ``regularisers`` are names of ``regularisers.REGULARISERS`` with their weights; a model with
    any is trained through fixed steps, without tolerances. ``start`` names the reference model
    whose shipped weights training starts from, where it does not start from random ones.
    """

    epochs: int
    tolerances: tuple[float, ...] = ()
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    clip: float = 1.0
    averaging: float = 0.0
    regularisers: Weighted = ()
    start: str = ""

    def __post_init__(self) -> None:
        if len(self.tolerances) not in (0, self.epochs):
            raise BadInput(
                f"A recipe of {self.epochs} epochs has {len(self.tolerances)} tolerances; "
                "give one for each epoch, or none."
            )
        if self.regularisers and self.tolerances:
            raise BadInput("A regularised recipe solves by fixed steps; give it no tolerances.")

    def lasting(self, epochs: int) -> Recipe:
        """The same recipe, its course of tolerances too, over ``epochs`` epochs.

        Raises BadInput unless there is at least one.
        """
        if epochs < 1:
            raise BadInput(f"--epochs must be at least 1, got {epochs}.")
        last = [math.ceil((k + 1) * self.epochs / epochs) - 1 for k in range(epochs)]
        course = tuple(self.tolerances[k] for k in last if self.tolerances)
        return replace(self, epochs=epochs, tolerances=course)

    def regularised(self, weights: Weighted) -> Recipe:
        """The same recipe with these regularisers, and therefore by fixed steps."""
        return replace(self, tolerances=(), regularisers=weights)


@dataclass(frozen=True)
class Task:
    """What is trained, and all that the loop does not know about it.

    ``model`` makes the module that training starts from, with weights drawn from torch's global
    generator unless the recipe says where they are from; it is a ``Solving`` one when the recipe
    has tolerances. ``batch`` takes the rows (n,) of ``size``
    training examples and a generator for what is random in them. ``loss`` gives a batch's scalar
    loss and its metrics. ``held_out`` and ``test`` measure a trained module; ``test`` is empty
    without test data. ``data`` describes the data set for the model card.
    """

    name: str
    model: Callable[[], nn.Module]
    size: int
    batch: Callable[[Tensor, Generator], Batch]
    loss: Callable[[nn.Module, Batch], tuple[Tensor, Metrics]]
    held_out: Callable[[nn.Module], Metrics]
    test: Callable[[nn.Module], Metrics]
    recipe: Recipe
    data: Mapping[str, Any]

    @property
    def steps_per_epoch(self) -> int:
        return self.size // self.recipe.batch

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.recipe.epochs


@dataclass(frozen=True)
class Progress:
    """Where a run is. Loss, metrics and evaluations a step are means since the last report.

    Tolerance and evaluations are None for a model that solves nothing in training. ``seconds``
    counts from the first step, over all resumptions; ``held_out`` is given at the end of an epoch.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    tolerance: float | None
    loss: float
    metrics: Metrics
    forward_evaluations: float | None
    backward_evaluations: float | None
    seconds: float
    held_out: Metrics | None = None
