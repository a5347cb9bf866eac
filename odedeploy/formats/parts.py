"""Files whose runtime takes a bounded number of rows at a time: any batch, part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from odedeploy.errors import BadInput
from odedeploy.manifest import TensorSpec
from odedeploy.runtime import batch_symbol

Run = Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]


def in_parts(
    run: Run,
    feed: Mapping[str, np.ndarray],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    rows: int,
    exact: bool,
) -> Sequence[np.ndarray]:
    """``run`` on ``rows`` rows at a time at most, or always on as many, the last one repeated.

    Raises BadInput for several parts of which an output has no batch axis.
    """
    symbol = batch_symbol(inputs)
    batched = [spec.name for spec in inputs if spec.shape[:1] == (symbol,)]
    count = len(feed[batched[0]]) if symbol is not None and batched else rows
    if count == rows or (count < rows and not exact):
        return run(feed)
    if whole := [spec.name for spec in outputs if symbol not in spec.shape]:
        raise BadInput(
            f"The output {whole[0]!r} has no batch axis, and this file takes {rows} rows at a "
            f"time, not {count}; give as many."
        )
    axes = [spec.shape.index(symbol) for spec in outputs if symbol is not None]
    parts = []
    for first in range(0, count, rows):
        last = min(first + rows, count)
        taken = np.minimum(np.arange(first, first + rows if exact else last), count - 1)
        answers = run({n: a[taken] if n in batched else a for n, a in feed.items()})
        parts.append([
            np.take(a, range(last - first), axis) if a.shape[axis] > last - first else a
            for a, axis in zip(answers, axes, strict=True)
        ])  # fmt: skip
    return [np.concatenate(all, axis) for all, axis in zip(zip(*parts, strict=True), axes,
                                                            strict=True)]  # fmt: skip
