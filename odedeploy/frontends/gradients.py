"""Gradients that a vector field takes for itself."""

from __future__ import annotations

from functools import wraps

import torch
from torch import Tensor

from odedeploy.executor import Field, States


def own_gradients(field: Field) -> Field:
    """``field`` where it can differentiate, as in training, and nothing of it is handed on.

    A field that calls ``torch.autograd.grad`` needs gradients enabled; what it returns would
    otherwise tie every evaluation of a solve to the one before. ``__wrapped__`` is ``field``.
    """

    @wraps(field)
    def evaluate(t: Tensor, states: States) -> States:
        with torch.enable_grad():
            derivatives = field(t, states)
        return tuple(k.detach() if k.requires_grad else k for k in derivatives)

    return evaluate
