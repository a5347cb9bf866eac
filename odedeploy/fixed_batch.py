"""A file for one batch size, asked for any number of inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from odedeploy.formats import Runner
from odedeploy.formats.parts import in_parts
from odedeploy.graph import Inputs
from odedeploy.manifest import TensorSpec
from odedeploy.runtime import batch_symbol


class InBatches:
    """``runner``, which takes ``size`` rows, as one that takes any number of them.

    The last batch is filled up with its last row. ``inputs`` and ``outputs`` are those of the
    model, whose batch axis is dynamic.
    """

    def __init__(
        self, runner: Runner, size: int, inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
    ) -> None:  # fmt: skip
        self.runner, self.size = runner, size
        symbol = batch_symbol(inputs) or ""
        self.inputs = _freed(runner.inputs, inputs, size, symbol)
        self.outputs = _freed(runner.outputs, outputs, size, symbol)
        self.metadata: Mapping[str, str] = runner.metadata
        self.limits, self.facts = runner.limits, runner.facts
        self.roundoff = runner.roundoff
        self._batched = {spec.name for spec in self.inputs if symbol in spec.shape[:1]}

    def run(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """Outputs by name; raises BadInput for several batches of which an output has no axis."""
        names = [spec.name for spec in self.outputs]

        def once(part: Inputs) -> list[np.ndarray]:
            found = self.runner.run(dict(part))
            return [found[name] for name in names]

        parts = in_parts(once, inputs, self.inputs, self.outputs, self.size, exact=True)
        return dict(zip(names, parts, strict=True))

    def rows(self, inputs: Inputs, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """``inputs`` with the ``chosen`` rows of those that have a batch axis."""
        return {n: a[chosen] if n in self._batched else a for n, a in inputs.items()}


def _freed(
    found: Sequence[TensorSpec], model: Sequence[TensorSpec], size: int, symbol: str
) -> tuple[TensorSpec, ...]:
    """``found`` with the axes that are ``symbol`` in the model and ``size`` here called so."""
    named = {spec.name: spec.shape for spec in model}
    return tuple(
        replace(
            spec,
            shape=tuple(
                symbol if (here, there) == (size, symbol) else here
                for here, there in zip(spec.shape, named.get(spec.name, spec.shape), strict=False)
            ),
        )
        for spec in found
    )
