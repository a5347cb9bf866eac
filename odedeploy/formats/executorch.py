"""ExecuTorch: a program for phones and small devices, with XNNPACK's kernels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from odedeploy.errors import BadInput, Crashed, Unusable
from odedeploy.formats import archive
from odedeploy.formats.optional import hushed, module, quiet
from odedeploy.formats.parts import in_parts
from odedeploy.runtime import Artefact, batch_symbol
from odedeploy.tolerance import Tolerance

if TYPE_CHECKING:
    from odedeploy.graph import OdeGraph
    from odedeploy.program import Plan

MOST = 16
"""Rows of a batch for which memory is planned; the converter may settle for fewer."""

_load = partial(module, title="ExecuTorch", extra="executorch")

_pool: int | None = None
"""Threads of the pool that all programs of this process share, once one is loaded."""


class ExecuTorchModel(Artefact):
    """A loaded program; more rows than its memory is planned for run part by part."""

    roundoff = 10 * Tolerance.FLOAT32
    """Its portable kernels, of norms say, sum one number after another."""

    def __init__(self, method: Any, held: Any, found: archive.Contents, threads: int) -> None:
        self._method, self._held = method, held
        self.file, self.metadata = found.file, found.metadata
        self.inputs, self.outputs = found.inputs, found.outputs
        self.facts = {"options": {"threads": threads}}
        symbol = batch_symbol(self.inputs)
        sizes = [method.metadata.input_tensor_meta(i).sizes() for i in range(len(self.inputs))]
        self._rows = min(
            (size[0] for spec, size in zip(self.inputs, sizes, strict=True)
             if symbol is not None and spec.shape[:1] == (symbol,)), default=MOST,
        )  # fmt: skip
        self.limits = {"batch": {"most": self._rows}}

    def answer(self, feed: Mapping[str, np.ndarray]) -> Any:
        """Raises Crashed when the runtime fails."""
        return in_parts(self._run, feed, self.inputs, self.outputs, self._rows, exact=False)

    def _run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        from torch import from_numpy

        tensors = [from_numpy(np.array(feed[spec.name])) for spec in self.inputs]
        try:
            return [np.array(result.numpy()) for result in self._method.execute(tensors)]
        except RuntimeError as error:
            raise Crashed(f"ExecuTorch failed on {self.file} ({archive.line(error)}).") from error


class ExecuTorch(archive.Archived):
    name = "executorch"
    title = "ExecuTorch"
    suffix = ".pte"
    forms = ("unrolled",)
    runtime = "executorch.runtime"
    packages = ("executorch",)
    quick = False

    def ready(self) -> None:
        """Raises Unusable where ExecuTorch is not installed."""
        _load("executorch")

    def build(self, graph: OdeGraph, plan: Plan, form: str) -> archive.Packed:
        exir = _load("executorch.exir")
        partitioner = _load("executorch.backends.xnnpack.partition.xnnpack_partitioner")
        from odedeploy.formats.torched import program_of

        program = program_of(graph, plan, form, "ExecuTorch", most=MOST, plain=True)
        try:
            with quiet():
                lowered = exir.to_edge_transform_and_lower(
                    program, partitioner=[partitioner.XnnpackPartitioner()]
                ).to_executorch()
        except Exception as error:
            raise BadInput(
                f"ExecuTorch cannot hold this model ({archive.line(error)}); take the format onnx."
            ) from error
        return archive.Packed(bytes(lowered.buffer), archive.signature(graph, plan))

    def open(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> ExecuTorchModel:
        """``threads`` is one by default; all programs of a process share one pool of them.

        Raises Unusable for another number of threads than this process has already.
        """
        found = self.checked(path, threads, options)
        data = found.payload()
        pool = _share(threads)
        try:
            program = _load("executorch.runtime").Runtime.get().load_program(data)
            method = program.load_method("forward")
        except (RuntimeError, ValueError) as error:
            raise BadInput(
                f"{found.file} is not a program that ExecuTorch can load ({archive.line(error)}); "
                "export it again."
            ) from error
        return ExecuTorchModel(method, (program, data), found, pool)


def _share(threads: int | None) -> int:
    """The threads of the pool, set before the first program is loaded: later it would hang."""
    global _pool
    if _pool is None:
        _pool = threads or 1
        library = _load("executorch.extension.pybindings.portable_lib")
        with hushed():  # it tells which files about the processor it looks for
            library._unsafe_reset_threadpool(_pool)
    if threads is not None and threads != _pool:
        raise Unusable(
            f"This process runs ExecuTorch on {_pool} thread(s), which holds until it ends; use "
            f"{threads} in another process."
        )
    return _pool
