"""TorchScript, run by PyTorch or LibTorch without the model's Python code."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from odedeploy.errors import BadInput, Crashed
from odedeploy.formats import archive
from odedeploy.formats.torched import model_of, use_threads
from odedeploy.runtime import Artefact

if TYPE_CHECKING:
    from odedeploy.graph import OdeGraph
    from odedeploy.program import Plan

jit: Any = torch.jit
"""Deprecated, and without types."""


class TorchScriptModel(Artefact):
    """A loaded TorchScript file, on the CPU unless ``device`` is another."""

    def __init__(
        self, module: torch.jit.ScriptModule, found: archive.Contents, device: str
    ) -> None:
        self._module, self._device = module, device
        self.facts = {"options": {"device": device}}
        self.file, self.metadata = found.file, found.metadata
        self.inputs, self.outputs, self.options = found.inputs, found.outputs, found.options

    def answer(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Raises Crashed when torch fails."""
        tensors = {
            spec.name: torch.from_numpy(np.array(feed[spec.name])).to(self._device)
            for spec in (*self.inputs, *self.options)
            if spec.name in feed
        }
        arrays = [tensors.pop(spec.name) for spec in self.inputs]
        try:
            with torch.inference_mode():
                return [result.cpu().numpy() for result in self._module(*arrays, **tensors)]
        except RuntimeError as error:
            raise Crashed(f"TorchScript failed ({archive.line(error)}).") from error


class TorchScript(archive.Archived):
    name = "torchscript"
    title = "TorchScript"
    settings = ("device",)
    suffix = ".pt"
    forms = ("unrolled", "adaptive")
    runtime = "torch"
    packages = ("torch",)
    quick = True

    def ready(self) -> None:
        """PyTorch is all it takes."""

    def build(self, graph: OdeGraph, plan: Plan, form: str) -> archive.Packed:
        """Traced on the example rows; step-size control is scripted around traces. Tracing warns of
        every value that it makes a constant, stage times and coefficients among them; that no input
        is one is for verification to show, on other inputs and batch sizes.

        Raises BadInput for a graph without its PyTorch model, and for another form.
        """
        live = model_of(graph, form, "TorchScript", self.forms)
        from odedeploy.graph import input_specs

        names = [spec.name for spec in input_specs(graph.model)]
        tensors = tuple(torch.from_numpy(np.array(live.example[name])) for name in names)
        with torch.no_grad(), _deprecation_silenced():
            warnings.simplefilter("ignore", jit.TracerWarning)
            if form == "adaptive":
                from odedeploy.formats.scripted import script

                module: Any = script(graph, plan, tensors)
            else:
                module = jit.trace(live.module(plan).eval(), tensors, check_trace=False)
            frozen = jit.freeze(module)
        return archive.Packed(_saved(frozen), archive.signature(graph, plan))

    def open(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> TorchScriptModel:
        """``options`` is ``device``, ``"cpu"`` or ``"cuda"``. ``threads`` sets PyTorch's number of
        threads for the whole process.

        Raises BadInput for a file that is missing, damaged or not written by odedeploy.
        """
        device = str((options or {}).get("device", "cpu"))
        found = self.checked(path, threads, options)
        try:
            with _deprecation_silenced():
                module = jit.load(str(found.file), map_location=device)
        except RuntimeError as error:
            raise BadInput(
                f"{found.file} is not a whole TorchScript file ({archive.line(error)}); "
                "export it again."
            ) from error
        use_threads(threads)
        return TorchScriptModel(module, found, device)


def _saved(module: torch.jit.ScriptModule) -> bytes:
    """The archive that ``torch.jit.save`` writes."""
    buffer = io.BytesIO()
    with _deprecation_silenced():
        jit.save(module, buffer)
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
