"""What every loaded artefact can do, whatever runtime it runs in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from odedeploy.errors import BadInput
from odedeploy.manifest import Manifest, TensorSpec
from odedeploy.runtime.metadata import Golden, alarm_output, read_golden, read_manifest
from odedeploy.runtime.options import check_options, warn_of_options
from odedeploy.runtime.signature import check_inputs
from odedeploy.tolerance import Tolerance


class Artefact(ABC):
    """A loaded artefact: ``model(x)``, ``model(x, y)`` or ``model(image=x)``.

    Made by ``load``. Inputs are NumPy arrays of exactly the dtypes and shapes in ``inputs``.
    ``options`` are inputs that may be left out, single numbers: ``model(x, steps=32)``.
    ``facts`` says how its runtime runs it and ``limits`` what it is bound to, a batch size, a
    processor or the defaults of some inputs, in plain JSON values.
    """

    file: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    options: tuple[TensorSpec, ...] = ()
    metadata: Mapping[str, str]
    facts: Mapping[str, Any] = {}  # noqa: RUF012
    limits: Mapping[str, Any] = {}  # noqa: RUF012
    roundoff: float = Tolerance.FLOAT32
    """Largest relative error of an input between its kernels and PyTorch's, in float32."""

    @abstractmethod
    def answer(self, feed: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        """The outputs in order, of inputs that fit; raises Crashed when the runtime fails."""

    @cached_property
    def manifest(self) -> Manifest | None:
        """What was delivered; None for a file that odedeploy did not write."""
        return read_manifest(self.metadata)

    @cached_property
    def golden(self) -> Golden | None:
        """Inputs with their outputs on the machine of the export, or None."""
        return read_golden(self.metadata)

    @cached_property
    def alarm(self) -> str | None:
        """The output (batch,), above 1 where a solve goes unlike its calibration, or None."""
        return alarm_output(self.metadata)

    def __call__(self, *arrays: Any, **named: Any) -> np.ndarray | dict[str, np.ndarray]:
        """The output of a model with one, else the outputs by name; raises as ``run`` does."""
        names = [spec.name for spec in self.inputs]
        if len(arrays) > len(names):
            raise BadInput(f"The model takes the {len(names)} inputs {names}, got {len(arrays)}.")
        positional = dict(zip(names, arrays, strict=False))
        twice = sorted(positional.keys() & named.keys())
        if twice:
            raise BadInput(f"The inputs {twice} are given by position and by name; give them once.")
        outputs = self.run(positional | named)
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def run(self, inputs: Mapping[str, Any], *, check: bool = True) -> dict[str, np.ndarray]:
        """Outputs by name.

        With ``check`` false the arrays go to the runtime as they are, NaN and infinity included.
        Warns of a number of steps or a tolerance for which the file is not certified.

        Raises BadInput for inputs that do not fit and Crashed when the runtime fails.
        """
        values = self.answer(self._checked(inputs) if check else inputs)
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def _checked(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        options = check_options(inputs, self.options)
        if options:
            warn_of_options(options, self.manifest)
        rest = {name: value for name, value in inputs.items() if name not in options}
        return check_inputs(rest, self.inputs) | options
