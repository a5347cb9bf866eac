"""The training loop shared by the reference models: seeded, checkpointed, resumable.

A run is a function of (task, recipe, seed) alone: the initial weights are drawn from the seed, the
order of an epoch's batches from (seed, epoch) and a batch's augmentation from (seed, step). A run
that was killed and resumed therefore takes the same steps as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import cast

import torch
from torch import Generator, Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from odedeploy.errors import BadInput, Diverged, UnknownName, Unusable
from odedeploy.models import gradients, lock, parallel, regularisers, solves
from odedeploy.models.checkpoint import Checkpoint, read, save, sweep
from odedeploy.models.tasks import Batch, Metrics, Progress, Recipe, Solving, Task

DEVICES = ("auto", "cpu", "cuda")


def place(device: str) -> torch.device:
    """The device of that name; ``auto`` is CUDA where there is one, otherwise the CPU.

    Raises UnknownName for another name and Unusable for ``cuda`` where there is none.
    """
    if device not in DEVICES:
        raise UnknownName("device", device, DEVICES)
    if device == "cuda" and not torch.cuda.is_available():
        raise Unusable("PyTorch finds no CUDA device here; train with --device cpu.")
    return torch.device("cpu" if device == "cpu" or not torch.cuda.is_available() else "cuda")


def initial(task: Task, seed: int) -> nn.Module:
    """The untrained module of ``seed``, the same on every device; torch's own state is kept.

    Raises BadInput for a seed outside 0 … 2³² − 1.
    """
    if not 0 <= seed < 2**32:
        raise BadInput(f"--seed must lie between 0 and {2**32 - 1}, got {seed}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return task.model()


def run(
    task: Task,
    checkpoint: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    fresh: bool = False,
    every: int = 20,
    report: Callable[[Progress], None] = lambda _: None,
) -> nn.Module:
    """Train the task's model to the end of its recipe; return it, or its average, in eval mode.

    The checkpoint is written at the start, every ``every`` steps and at the end of each epoch. An
    existing one of the same run is resumed, or with ``fresh`` replaced. Under ``torchrun`` the
    processes share each batch; the first one alone writes and reports.

    Raises BadInput for a checkpoint of another run, too few examples, a batch that does not split
    or a folder that cannot be written, Diverged for a loss that is not finite, and what ``place``
    and ``initial`` raise.
    """
    if task.steps_per_epoch == 0:
        raise BadInput(
            f"{task.name} has {task.size} training examples, fewer than a batch of "
            f"{task.recipe.batch}; give more data."
        )
    under_way = _Run(task, seed, place(device))
    if under_way.group.leads:
        sweep(checkpoint)
    if checkpoint.exists() and not fresh:
        under_way.resume(checkpoint)
    else:
        under_way.keep(checkpoint)
    clock = time.monotonic() - under_way.seconds
    for step, rows in _order(task, seed, under_way.done):
        batch = under_way.step(step, rows)
        ends_epoch = under_way.done % task.steps_per_epoch == 0
        if under_way.done % every == 0 or ends_epoch:
            under_way.seconds = time.monotonic() - clock
            under_way.keep(checkpoint)
            under_way.tell(report, batch if ends_epoch else None)
    under_way.group.leave()
    return under_way.measured.eval()


class _Run:
    """A run on its way: the model with its optimiser, and what its checkpoint holds beside them.

    ``done`` counts steps and ``seconds`` the time they took, over all resumptions; ``chosen`` are
    the tolerances of the epoch, forward and adjoint; ``window`` has each step's metrics since the
    last report.
    """

    def __init__(self, task: Task, seed: int, where: torch.device) -> None:
        self.group = parallel.join(where, task.recipe.batch)
        self.asked, self.seed, self.where = task, seed, where
        if task.recipe.regularisers:
            task = regularisers.regularised(task)
        if task.recipe.checkpoints:
            task = solves.checkpointed(task)
        self.task = task
        self.model = initial(task, seed).to(where).train()
        self.optimizer, self.schedule = _optimisation(task, self.model)
        self.average = _average(task, self.model)
        self.done, self.seconds = 0, 0.0
        self.chosen: tuple[float, ...] = ()
        self.window: list[Metrics] = []

    @property
    def measured(self) -> nn.Module:
        """What is measured and returned: the average of the weights where there is one."""
        return self.average or self.model

    def step(self, number: int, rows: Tensor) -> Batch:
        """Take the step of that number on this process's share of ``rows``, which is returned."""
        task = self.task
        drawn = task.batch(rows, Generator().manual_seed(self.seed * 1_000_003 + number))
        batch = tuple(part.to(self.where) for part in self.group.share(drawn, len(rows)))
        if task.recipe.tolerances:
            if not self.chosen or number % task.steps_per_epoch == 0:
                found = _tolerances(task, self.model, batch, number // task.steps_per_epoch)
                self.chosen = self.group.agreed(found, self.where)
            solving = cast(Solving, self.model)
            solving.tolerance, solving.adjoint_tolerance = self.chosen
        self.window.append(_step(task, self.model, batch, self.optimizer, self.group))
        self.schedule.step()
        if self.average is not None:
            _follow(self.average, self.model, task.recipe.averaging)
        self.done = number + 1
        return batch

    def tell(self, report: Callable[[Progress], None], last: Batch | None) -> None:
        """Report the window and begin another; ``last`` is the batch that ended an epoch."""
        if self.group.leads:
            at = _progress(self.task, self.done, self.chosen, self.window, self.seconds)
            if last is not None:
                held_out = self.task.held_out(self.measured.eval())
                at = replace(at, held_out=held_out, moved=lock.moved(self.asked, self.model, last))
            report(at)
        self.model.train()
        self.window.clear()

    def keep(self, path: Path) -> None:
        """Write the checkpoint, in the first process."""
        if not self.group.leads:
            return
        parts = (self.model, self.optimizer, self.schedule)
        weights, moments, rate = (part.state_dict() for part in parts)
        mean = self.average.state_dict() if self.average else {}
        recipe = asdict(self.task.recipe)
        save(path, Checkpoint(recipe, self.seed, self.done, self.seconds, weights, moments, rate,
                              mean, self.chosen))  # fmt: skip

    def resume(self, path: Path) -> None:
        """Go on from the checkpoint in ``path``; raises BadInput for another run's."""
        saved = read(path)
        asked = asdict(self.task.recipe) | {"seed": self.seed, "steps": self.task.steps}
        taken = {"seed": saved.seed, "steps": saved.schedule.get("total_steps")}
        found = _before() | saved.recipe | taken
        for name in asked:
            if asked[name] != found.get(name):
                raise BadInput(
                    f"{path} belongs to another run: its {name} is {found.get(name)}, not "
                    f"{asked[name]}; choose another folder or start over with --fresh."
                )
        try:
            self.model.load_state_dict(saved.model)
            self.optimizer.load_state_dict(saved.optimizer)
            self.schedule.load_state_dict(saved.schedule)
            if self.average is not None:
                self.average.load_state_dict(saved.average)
        except (KeyError, RuntimeError, ValueError) as error:
            raise BadInput(
                f"{path} holds another model than {self.task.name}; "
                "choose another folder or start over with --fresh."
            ) from error
        self.done, self.seconds, self.chosen = saved.step, saved.seconds, saved.tolerances


def _tolerances(task: Task, model: nn.Module, batch: Batch, epoch: int) -> tuple[float, float]:
    """Of the forward and the backward solve in an epoch: the recipe's, or the loosest that do."""
    allowed = task.recipe.gradient_error
    if not allowed:
        return task.recipe.tolerances_of(epoch)
    found = gradients.loosest(task, model, batch, allowed)
    return found.tolerance, found.adjoint_tolerance


def _optimisation(task: Task, model: nn.Module) -> tuple[Optimizer, OneCycleLR]:
    recipe = task.recipe
    optimizer = AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    rate = recipe.learning_rate
    # OneCycleLR divides by the steps of its rise less one.
    rise = 0.5 if task.steps == 4 else 0.25
    return optimizer, OneCycleLR(optimizer, max_lr=rate, total_steps=task.steps, pct_start=rise)


def _average(task: Task, model: nn.Module) -> nn.Module | None:
    """A copy of ``model`` that is to follow its weights, when the recipe averages them."""
    return deepcopy(model).requires_grad_(False) if task.recipe.averaging else None


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average towards the model; buffers, which are no weights, are copied."""
    for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(weight, 1 - decay)
    for held, buffer in zip(average.buffers(), model.buffers(), strict=True):
        held.copy_(buffer)


def _order(task: Task, seed: int, start: int) -> Iterator[tuple[int, Tensor]]:
    """Step numbers from ``start`` on, with the rows of each step's batch."""
    batch, per_epoch = task.recipe.batch, task.steps_per_epoch
    for epoch in range(start // per_epoch, task.recipe.epochs):
        order = torch.randperm(task.size, generator=Generator().manual_seed(seed + 7919 * epoch))
        for step in range(max(start, epoch * per_epoch), (epoch + 1) * per_epoch):
            first = (step - epoch * per_epoch) * batch
            yield step, order[first : first + batch]


def _step(
    task: Task, model: nn.Module, batch: Batch, optimizer: Optimizer, group: parallel.Group
) -> Metrics:
    """One step of the optimiser; its loss and metrics, with the evaluations of a solving model."""
    counted = cast(Solving, model) if task.recipe.tolerances else None
    before = counted.evaluations if counted else 0
    try:
        loss, metrics = task.loss(model, batch)
        between = counted.evaluations if counted else 0
        if not torch.isfinite(loss):
            raise Diverged(f"The loss of {task.name} is {loss.item()}; train with another seed.")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
    except AssertionError as error:  # torchdiffeq asserts that step size and state stay finite
        raise Diverged(
            f"A solve of {task.name} diverged in training ({error}); train with another seed."
        ) from error
    group.average(model)
    nn.utils.clip_grad_norm_(model.parameters(), task.recipe.clip)
    optimizer.step()
    done = {"loss": loss.item(), **metrics}
    if counted:
        done |= {"forward": between - before, "backward": counted.evaluations - between}
    return done


def _progress(
    task: Task,
    done: int,
    chosen: tuple[float, ...],
    window: list[Metrics],
    seconds: float,
) -> Progress:
    mean = {key: sum(step[key] for step in window) / len(window) for key in window[0]}
    epoch = (done - 1) // task.steps_per_epoch
    return Progress(
        epoch=epoch + 1,
        epochs=task.recipe.epochs,
        step=done,
        steps=task.steps,
        tolerance=chosen[0] if chosen else None,
        adjoint_tolerance=chosen[1] if chosen else None,
        loss=mean.pop("loss"),
        forward_evaluations=mean.pop("forward", None),
        backward_evaluations=mean.pop("backward", None),
        metrics=mean,
        seconds=seconds,
    )


def _before() -> dict[str, object]:
    """What a checkpoint means that was written before a field of the recipe was thought of."""
    return {field.name: field.default for field in fields(Recipe)}
