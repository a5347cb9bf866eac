"""TorchScript, run by PyTorch or LibTorch without the model's Python code."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch

from odedeploy.errors import BadInput, Crashed
from odedeploy.formats import archive
from odedeploy.runtime import Artefact

if TYPE_CHECKING:
    from odedeploy.graph import Inputs, OdeGraph
    from odedeploy.program import Plan

ROOT = "archive"
"""The folder in which ``torch.jit.save`` puts what it writes into a stream."""


@runtime_checkable
class Traceable(Protocol):
    """An evaluator that holds the live PyTorch model; ``example`` is a few rows of its inputs."""

    @property
    def example(self) -> Inputs: ...

    def module(self, plan: Plan) -> torch.nn.Module:
        """The model under ``plan``: inputs by position, a tuple of outputs, float32."""
        ...


class TorchScriptModel(Artefact):
    """A loaded TorchScript file, on the CPU."""

    def __init__(self, module: torch.jit.ScriptModule, found: archive.Contents) -> None:
        self._module = module
        self.file, self.metadata = found.file, found.metadata
        self.inputs, self.outputs = found.inputs, found.outputs

    def answer(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Raises Crashed when torch fails."""
        tensors = [torch.from_numpy(np.array(feed[spec.name])) for spec in self.inputs]
        try:
            with torch.inference_mode():
                return [result.numpy() for result in self._module(*tensors)]
        except RuntimeError as error:
            raise Crashed(f"TorchScript failed ({archive.line(error)}).") from error


class TorchScript:
    name = "torchscript"
    suffix = ".pt"
    forms = ("unrolled",)
    runtime = "torch"

    def build(self, graph: OdeGraph, plan: Plan, form: str) -> archive.Packed:
        """Traced on the example rows. Tracing warns of every value that it makes a constant, stage
        times and coefficients among them; that no input is one is for verification to show, on
        other inputs and batch sizes.

        Raises BadInput for a graph without its PyTorch model, and for another form.
        """
        live = graph.evaluator
        if not isinstance(live, Traceable):
            raise BadInput(
                "TorchScript is traced from the PyTorch model, which a graph read from a file "
                "lacks; give the model."
            )
        if form != "unrolled":
            raise BadInput(f"TorchScript holds unrolled solves only, not the form {form!r}.")
        from odedeploy.graph import input_specs

        names = [spec.name for spec in input_specs(graph.model)]
        tensors = tuple(torch.from_numpy(np.array(live.example[name])) for name in names)
        with torch.no_grad(), _deprecation_silenced():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            traced = torch.jit.trace(live.module(plan).eval(), tensors, check_trace=False)
            frozen = torch.jit.freeze(traced)
        return archive.Packed(_saved(frozen), archive.signature(graph, plan), f"{ROOT}/")

    def open(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> TorchScriptModel:
        """``threads`` sets PyTorch's number of threads for the whole process.

        Raises BadInput for a file that is missing, damaged or not written by odedeploy.
        """
        archive.check_threads(threads)
        archive.check_options(self.name, options, ())
        found = archive.contents(path, "TorchScript")
        try:
            with _deprecation_silenced():
                module = torch.jit.load(  # type: ignore[no-untyped-call]
                    str(found.file), map_location="cpu"
                )
        except RuntimeError as error:
            raise BadInput(
                f"{found.file} is not a whole TorchScript file ({archive.line(error)}); "
                "export it again."
            ) from error
        if threads is not None:
            torch.set_num_threads(threads)
        return TorchScriptModel(module, found)


def _saved(module: torch.jit.ScriptModule) -> bytes:
    """The archive that ``torch.jit.save`` writes, in the folder ``ROOT``."""
    buffer = io.BytesIO()
    with _deprecation_silenced():
        torch.jit.save(module, buffer)
    return _without_sources(buffer)


def _without_sources(whole: io.BytesIO) -> bytes:
    """The archive without its ``.debug_pkl`` records: source lines and paths of this machine.

    Entries stay uncompressed and carry zip's first date, so that one artefact always gives
    the same bytes.
    """
    stripped = io.BytesIO()
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(stripped, "w") as new:
        for entry in old.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(entry.filename), old.read(entry))
    return stripped.getvalue()


@contextmanager
def _deprecation_silenced() -> Iterator[None]:
    """Without PyTorch's notice that TorchScript is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r"`torch\.jit\.\w+` is deprecated", category=DeprecationWarning
        )
        yield
