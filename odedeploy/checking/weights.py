"""Are all weights finite?"""

from __future__ import annotations

import torch

from odedeploy.checking.records import Finding, Subject


def examine(subject: Subject) -> Finding:
    """Parameters and buffers, by name: how many numbers, the largest, and those not finite."""
    model = subject.evaluator.model
    tensors = [*model.named_parameters(), *model.named_buffers()]
    real = {name: x.detach() for name, x in tensors if x.is_floating_point() and x.numel()}
    lost = [name for name, x in real.items() if not bool(torch.isfinite(x).all())]
    largest = max((float(x.abs().max()) for n, x in real.items() if n not in lost), default=0.0)
    count = sum(x.numel() for x in real.values())
    values = {"count": count, "largest": largest, "not_finite": lost}
    if lost:
        words = f"{', '.join(lost[:3])} of the weights hold numbers that are not finite."
        return Finding("weights", "bad", words, values)
    words = f"All {count:,} weights are finite, the largest is {largest:.3g}."
    return Finding("weights", "good", words, values)
