"""Data-parallel training under ``torchrun``: every process takes its share of each batch.

A batch is drawn whole in every process, from the step's own generator, and split by its first
axis, so that the run is that of one process up to what a solve makes of the samples beside it.
Gradients are averaged over the processes by gloo on the CPU and by nccl on CUDA; the first process
alone measures, reports and writes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from odedeploy.errors import BadInput
from odedeploy.models.tasks import Batch


@dataclass(frozen=True)
class Group:
    """The processes of a run: this one's number, and how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, batch: Batch, rows: int) -> Batch:
        """This process's samples; what has no first axis of ``rows`` samples goes to all."""
        return tuple(
            part[self.rank :: self.size] if part.ndim and len(part) == rows else part
            for part in batch
        )

    def average(self, model: nn.Module) -> None:
        """Average the gradients over the processes; a missing one counts as zero."""
        if self.size == 1:
            return
        for parameter in model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)
            parameter.grad /= self.size

    def agreed(self, values: tuple[float, ...], where: torch.device) -> tuple[float, ...]:
        """The first process's values."""
        if self.size == 1:
            return values
        shared: Tensor = torch.tensor(values, dtype=torch.float64, device=where)
        distributed.broadcast(shared, 0)
        return tuple(shared.tolist())

    def leave(self) -> None:
        """Leave the group, after which its processes no longer wait for each other."""
        if self.size > 1:
            distributed.destroy_process_group()


def join(where: torch.device, batch: int) -> Group:
    """The group that ``torchrun`` started this process in, or this process alone.

    Raises BadInput for a ``batch`` that does not split evenly.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Group()
    if batch % size:
        raise BadInput(
            f"A batch of {batch} does not split over {size} processes; start a number that "
            "divides it."
        )
    if where.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if where.type == "cuda" else "gloo")
    return Group(distributed.get_rank(), size)


def leads() -> bool:
    """Whether this process is the first, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0
