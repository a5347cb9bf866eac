"""Formats: how a planned ODE graph becomes a file and how that file is run, one per module.

Opening a file needs its runtime alone, building one also the libraries that it is built with.
A new format is one module with a class that satisfies ``Format``, one line in ``FORMATS`` and one
in ``SUFFIXES``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from odedeploy.errors import BadInput, UnknownName
from odedeploy.manifest import TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

    from odedeploy.graph import Inputs, OdeGraph
    from odedeploy.program import Plan
    from odedeploy.runtime import Artefact

FORMATS: dict[str, str] = {
    "onnx": "odedeploy.formats.onnx:Onnx",
    "torchscript": "odedeploy.formats.torchscript:TorchScript",
    "pt2": "odedeploy.formats.pt2:Pt2",
    "aoti": "odedeploy.formats.aoti:Aoti",
    "openvino": "odedeploy.formats.openvino:OpenVino",
    "executorch": "odedeploy.formats.executorch:ExecuTorch",
    "litert": "odedeploy.formats.litert:LiteRt",
}
"""Name → ``module:class``; the module is imported when the format is asked for."""

SUFFIXES: dict[str, str] = {
    ".onnx": "onnx",
    ".pt": "torchscript",
    ".aoti.pt2": "aoti",
    ".pt2": "pt2",
    ".openvino": "openvino",
    ".pte": "executorch",
    ".tflite": "litert",
}
"""End of a file's name → name of the format, the longer ones first."""


class Runner(Protocol):
    """A file opened in the runtime that it is made for."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    @property
    def limits(self) -> Mapping[str, Any]: ...
    @property
    def roundoff(self) -> float: ...

    def run(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """Outputs by name; raises BadInput for inputs that do not fit."""
        ...


class Built(Protocol):
    """An artefact in memory."""

    def write(self, path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
        """Write the file whole or not at all; raises BadInput when it cannot be written."""
        ...


class Format(Protocol):
    """One file format. ``suffix`` includes the dot, ``forms`` are the forms that it can hold and
    ``runtime`` is the import name of what runs it. ``quick`` says whether a file is built in a
    moment, so that many may be on the way to one, and ``packages`` are the distributions that
    make and run it."""

    name: str
    suffix: str
    forms: tuple[str, ...]
    runtime: str
    packages: tuple[str, ...]
    quick: bool

    def ready(self) -> None:
        """Raises Unusable where such a file cannot be made or run."""
        ...

    def build(self, graph: OdeGraph, plan: Plan, form: str) -> Built:
        """The artefact of ``plan``; raises BadInput when the format cannot hold it."""
        ...

    def metadata(self, path: str | os.PathLike[str]) -> Mapping[str, str]:
        """What travels in a file, by name; raises BadInput as ``open`` does."""
        ...

    def open(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Artefact:
        """The file in its runtime, with its own ``options``.

        Raises BadInput for a file that is not of this format, and Unusable where its runtime is.
        """
        ...


@runtime_checkable
class Convertible(Protocol):
    """A format that is made from a lowered model, and so holds lower precisions, too."""

    def converted(self, model: ir.Model, graph: OdeGraph, plan: Plan) -> Built: ...


def load(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
) -> Artefact:
    """Load an exported file in the runtime of its format, with NumPy and that runtime alone.

    ``threads`` computes one operator on that many threads, by default on all cores. ``providers``
    are onnxruntime's execution providers, best first, by default the CPU's alone; each must really
    be in use afterwards.

    Raises BadInput for a file that is missing, damaged or not self-contained, UnknownName for an
    unknown provider, and Unusable when the runtime or a provider is not usable on this machine.
    """
    form = from_path(path)
    return form.open(path, threads, {} if providers is None else {"providers": list(providers)})


def find(name: str) -> Format:
    """The format of that name; raises UnknownName with the known ones."""
    if name not in FORMATS:
        raise UnknownName("format", name, FORMATS)
    module, _, attribute = FORMATS[name].partition(":")
    chosen: Format = getattr(import_module(module), attribute)()
    return chosen


def check_form(name: str, form: str) -> None:
    """Raises UnknownName for an unknown format, BadInput for a form that it cannot hold, and
    Unusable where such files cannot be made."""
    held = find(name).forms
    if form not in held:
        raise BadInput(
            f"The format {name!r} cannot hold the form {form!r}, only {', '.join(held)}; choose "
            "another."
        )
    find(name).ready()


def from_path(path: str | os.PathLike[str]) -> Format:
    """The format that the file name's suffix stands for; raises BadInput for another suffix."""
    name = Path(path).name.lower()
    found = next((SUFFIXES[suffix] for suffix in SUFFIXES if name.endswith(suffix)), None)
    if found is None:
        raise BadInput(
            f"{os.fspath(path)} has no known suffix; end it in {', '.join(SUFFIXES)}, "
            "or name the format."
        )
    return find(found)
