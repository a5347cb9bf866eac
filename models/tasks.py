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


class Replaceable(Protocol):
    """What a model provides whose solve another can stand in for, an ``nn.Module``.

    It solves by ``through(field, start, t0, t1)``, which gives the state at t1, where one is set,
    and by its own solve where it is None.
    """

    through: Through | None


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: AdamW with a one-cycle learning rate and clipped gradients.

    ``tolerances`` gives rtol = atol of the forward solve for each epoch, and of the backward solve
    unless ``adjoint_tolerances`` does; it is empty for a model that solves nothing in training.
    With ``gradient_error`` both are chosen anew at the start of each epoch, the loosest whose
    gradient is that close to a tight one; 0 keeps the course given. ``checkpoints`` is the number
    of states that the checkpointed adjoint keeps; 0 takes the model's own adjoint.

    ``averaging`` is the decay per step of the weights' moving average, which is measured and
    published instead of the last weights; 0 keeps none. ``regularisers`` are names of
    ``regularisers.REGULARISERS`` with their weights; a model with any is trained through fixed
    steps, without tolerances. ``start`` names the reference model whose shipped weights training
    starts from, where it does not start from random ones.
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
    adjoint_tolerances: tuple[float, ...] = ()
    gradient_error: float = 0.0
    checkpoints: int = 0

    def __post_init__(self) -> None:
        for name in ("tolerances", "adjoint_tolerances"):
            given: tuple[float, ...] = getattr(self, name)
            if len(given) not in (0, self.epochs):
                raise BadInput(
                    f"A recipe of {self.epochs} epochs has {len(given)} {name}; "
                    "give one for each epoch, or none."
                )
        if self.regularisers and self.tolerances:
            raise BadInput("A regularised recipe solves by fixed steps; give it no tolerances.")
        adaptive = self.adjoint_tolerances or self.gradient_error or self.checkpoints
        if adaptive and not self.tolerances:
            raise BadInput("A recipe without tolerances solves nothing adaptively in training.")

    def lasting(self, epochs: int) -> Recipe:
        """The same recipe, its courses of tolerances too, over ``epochs`` epochs.

        Raises BadInput unless there is at least one.
        """
        if epochs < 1:
            raise BadInput(f"--epochs must be at least 1, got {epochs}.")
        last = [math.ceil((k + 1) * self.epochs / epochs) - 1 for k in range(epochs)]
        course = tuple(self.tolerances[k] for k in last if self.tolerances)
        backward = tuple(self.adjoint_tolerances[k] for k in last if self.adjoint_tolerances)
        return replace(self, epochs=epochs, tolerances=course, adjoint_tolerances=backward)

    def solved(
        self,
        tolerance: float | None = None,
        adjoint_tolerance: float | None = None,
        gradient_error: float = 0.0,
        checkpoints: int = 0,
    ) -> Recipe:
        """The same recipe with its solves done otherwise; what is None or 0 stays as it is.

        Raises BadInput for a tolerance that does not lie between 0 and 1, a negative number of
        checkpoints, or a recipe that has no tolerances.
        """
        asked = (tolerance, adjoint_tolerance, gradient_error or None)
        given = [value for value in asked if value is not None]
        if (given or checkpoints) and not self.tolerances:
            raise BadInput(
                "This model solves nothing adaptively in training; leave --tolerance, "
                "--adjoint-tolerance, --auto-tol and --checkpoints away."
            )
        if checkpoints < 0:
            raise BadInput(f"--checkpoints must be at least 1, got {checkpoints}.")
        if not all(0 < value < 1 for value in given):
            raise BadInput(f"Tolerances of training lie between 0 and 1, got {given}.")
        backward = self.adjoint_tolerances or self.tolerances
        forward = self.tolerances
        if tolerance is not None:
            forward = backward = (tolerance,) * self.epochs
        if adjoint_tolerance is not None:
            backward = (adjoint_tolerance,) * self.epochs
        return replace(
            self,
            tolerances=forward,
            adjoint_tolerances=() if backward == forward else backward,
            gradient_error=gradient_error or self.gradient_error,
            checkpoints=checkpoints or self.checkpoints,
        )

    def tolerances_of(self, epoch: int) -> tuple[float, float]:
        """Of the forward and of the backward solve in an epoch, counted from 0."""
        return self.tolerances[epoch], (self.adjoint_tolerances or self.tolerances)[epoch]

    def regularised(self, weights: Weighted) -> Recipe:
        """The same recipe with these regularisers, and therefore by fixed steps."""
        return replace(
            self,
            tolerances=(),
            adjoint_tolerances=(),
            gradient_error=0.0,
            checkpoints=0,
            regularisers=weights,
        )


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

    Tolerances and evaluations are None for a model that solves nothing in training. ``seconds``
    counts from the first step, over all resumptions. ``held_out`` is given at the end of an epoch,
    and so is ``moved`` for a model trained with fixed steps: how far halving them moves its
    outputs, relative, the 0.9 quantile of a batch.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    tolerance: float | None
    adjoint_tolerance: float | None
    loss: float
    metrics: Metrics
    forward_evaluations: float | None
    backward_evaluations: float | None
    seconds: float
    held_out: Metrics | None = None
    moved: float | None = None
