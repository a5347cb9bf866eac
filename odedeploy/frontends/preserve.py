"""Leaving a training model exactly as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

_CONTAINERS = (list, dict, set)


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside the block; afterwards everything is as before.

    Restored are modes, ``requires_grad``, buffers' values, plain attributes of every module
    (evaluation counters, context stored on a field) and the random states of PyTorch, NumPy and
    Python.
    """
    modules = list(model.modules())
    attributes = [_attributes(module) for module in modules]
    modes = [module.training for module in modules]
    gradients = [(p, p.requires_grad) for p in model.parameters()]
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    drawn = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        model.eval()
        for parameter, _ in gradients:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, before, mode in zip(modules, attributes, modes, strict=True):
            for name in module.__dict__.keys() - before.keys():
                del module.__dict__[name]
            module.__dict__.update(_copied(before))
            module.training = mode
        for parameter, required in gradients:
            parameter.requires_grad_(required)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        torch.set_rng_state(drawn[0])
        np.random.set_state(drawn[1])
        random.setstate(drawn[2])


def _attributes(module: nn.Module) -> dict[str, Any]:
    return _copied(module.__dict__)


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """A copy in which containers of the module's own are copied one level deep."""
    return {
        name: value.copy() if type(value) in _CONTAINERS else value
        for name, value in attributes.items()
    }
