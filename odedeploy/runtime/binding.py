"""Inputs and outputs held on a device, at fixed addresses, as a captured CUDA graph needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from odedeploy.manifest import TensorSpec

Shapes = tuple[tuple[int, ...], ...]


class Bound:
    """The inputs and outputs of a session on ``device``, one set for every shape of inputs.

    Inputs are copied into place and outputs out of it, so that a run allocates nothing. Every set
    has a graph number of its own, under which a provider that captures graphs keeps one.
    """

    def __init__(
        self, session: Any, device: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        self._session, self._device = session, device
        self._inputs, self._outputs = inputs, outputs
        self._sets: dict[Shapes, _Set] = {}

    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        arrays = [np.ascontiguousarray(feed[spec.name]) for spec in self._inputs]
        shapes = tuple(array.shape for array in arrays)
        if shapes not in self._sets:
            self._sets[shapes] = self._new(arrays)
        held = self._sets[shapes]
        for value, array in zip(held.inputs, arrays, strict=True):
            value.update_inplace(array)
        self._session.run_with_iobinding(held.binding, held.options)
        return [np.array(value.numpy()) for value in held.binding.get_outputs()]

    def _new(self, arrays: Sequence[np.ndarray]) -> _Set:
        runtime = import_module("onnxruntime")
        binding = self._session.io_binding()
        inputs = [runtime.OrtValue.ortvalue_from_numpy(a, self._device, 0) for a in arrays]
        for spec, value in zip(self._inputs, inputs, strict=True):
            binding.bind_ortvalue_input(spec.name, value)
        sizes: dict[int | str, int] = {}
        for spec, array in zip(self._inputs, arrays, strict=True):
            sizes |= dict(zip(spec.shape, array.shape, strict=True))
        for spec in self._outputs:
            shape = [axis if isinstance(axis, int) else sizes.get(axis) for axis in spec.shape]
            if None in shape:
                binding.bind_output(spec.name, self._device, 0)
                continue
            place = runtime.OrtValue.ortvalue_from_shape_and_type(
                shape, np.dtype(spec.dtype), self._device, 0
            )
            binding.bind_ortvalue_output(spec.name, place)
        options = runtime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(len(self._sets) + 1))
        return _Set(inputs, binding, options)


class _Set:
    def __init__(self, inputs: Sequence[Any], binding: Any, options: Any) -> None:
        self.inputs, self.binding, self.options = inputs, binding, options
