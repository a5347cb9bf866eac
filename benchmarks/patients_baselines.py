"""What ``patients`` is measured against: last values, straight lines in monthly bins, a GRU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from odedeploy.models import pbcseq
from odedeploy.models.patients import YEAR, Scale, centred, gaps, latest_known
from odedeploy.models.tasks import Batch

LABS = len(pbcseq.LABS)
MONTH = YEAR / 12


class GapGru(nn.Module):
    """A GRU over visits with the days between them; the days to the date enter a last layer.

    It is given all that ``patients`` is given, and predicts the change since the last value too.
    """

    def __init__(self, size: int = 12, scale: Callable[[], Scale] = Scale) -> None:
        super().__init__()
        values = len(pbcseq.VALUES)
        self.scale = scale()
        self.gru = nn.GRU(2 * values + 4, size, batch_first=True)
        self.enter = nn.Linear(size + 2 * values + 4, size)
        self.change = nn.Linear(size, LABS)
        self.tolerance = self.adjoint_tolerance = 0.0
        self.evaluations = 0

    def standardised(
        self, values: Tensor, observed: Tensor, day: Tensor, patient: Tensor, date: Tensor
    ) -> Tensor:
        known = self.scale(values, observed)
        about, gap = centred(patient), gaps(day)
        there = observed.amax(dim=2)
        latest = (day * there).amax(dim=1)
        each = about[:, None].expand(-1, day.shape[1], -1)
        states, _ = self.gru(torch.cat([known, observed, gap[..., None], each], dim=-1))
        state = states[torch.arange(len(day)), there.sum(1).long() - 1]
        last, ever = latest_known(known, observed)
        ahead = ((date - latest) / YEAR)[:, None]
        h = torch.tanh(self.enter(torch.cat([state, last, ever, about, ahead], dim=-1)))
        change: Tensor = self.change(h)
        return last[:, :LABS] + change


def last_values(scale: Scale, batch: Batch) -> Tensor:
    """Each value as it was last measured, the training mean where it never was: (n, 7)."""
    values, observed = batch[:2]
    return latest_known(scale(values, observed), observed)[0][:, :LABS]


def monthly_lines(scale: Scale, batch: Batch, reach: float = np.inf) -> Tensor:
    """The line through the last two monthly bins with a value, continued to the date's bin: (n, 7).

    Days are rounded down to months of 30.4 days, several values of a month averaged. The line is
    followed for at most ``reach`` months; a single bin gives its own value.
    """
    values, observed, day, _, date = (part.numpy() for part in batch[:5])
    known = scale(batch[0], batch[1]).numpy()
    found = np.zeros((len(values), LABS), np.float32)
    for row in range(len(values)):
        months = np.floor(day[row] / MONTH)
        target = np.floor(date[row] / MONTH)
        for lab in range(LABS):
            seen = observed[row, :, lab] > 0
            bins = np.unique(months[seen])[-2:]
            if not len(bins):
                continue
            means = [known[row, seen & (months == b), lab].mean() for b in bins]
            ahead = min(target - bins[-1], reach)
            slope = (means[-1] - means[0]) / (bins[-1] - bins[0]) if len(bins) > 1 else 0.0
            found[row, lab] = means[-1] + slope * ahead
    return torch.from_numpy(found)
