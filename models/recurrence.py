"""A gated recurrence that holds for any number of observations and needs no loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid


class Recurrence(nn.Module):
    """Last state of a gated recurrence over (batch, n, features), or its first: (batch, size).

    h ← (1 − g_i) h + g_i c_i, with gate g_i and candidate c_i of observation i alone (the minimal
    gated unit of Feng et al., *Were RNNs all we needed?*, 2024, arXiv 2410.01201). Its last state
    is therefore the sum of g_i c_i Π (1 − g_j) over all j that are read after i, for any n.
    ``backwards`` reads from the last observation to the first. Where ``mask`` (batch, n) is 0 there
    is no observation.
    """

    def __init__(self, features: int, size: int, *, backwards: bool) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Linear(features, size), nn.Tanh())
        self.gate = nn.Linear(size, size)
        self.candidate = nn.Linear(size, size)
        self.backwards = backwards

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        h = self.before(features)
        gate, there = self.gate(h), mask[..., None]
        kept = there * logsigmoid(-gate)
        until = torch.cumsum(kept, dim=1)
        later = until - kept if self.backwards else kept.sum(dim=1, keepdim=True) - until
        weight = there * torch.sigmoid(gate) * torch.exp(later)
        state: Tensor = (weight * self.candidate(h)).sum(dim=1)
        return state
