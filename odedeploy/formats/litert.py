"""LiteRT (TensorFlow Lite): a file for phones and small devices, with XNNPACK's kernels."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from odedeploy.errors import BadInput, Crashed, Unusable
from odedeploy.formats import archive
from odedeploy.formats.optional import module, quiet
from odedeploy.formats.parts import in_parts
from odedeploy.runtime import Artefact

if TYPE_CHECKING:
    from odedeploy.graph import OdeGraph
    from odedeploy.program import Plan

ROWS = 1
"""Rows of a batch: the format has fixed shapes."""


_load = partial(module, title="LiteRT", extra="litert")


class LiteRtModel(Artefact):
    """A loaded file; several rows run one by one."""

    limits = {"batch": {"fixed": ROWS}}

    def __init__(self, interpreter: Any, found: archive.Contents, threads: int | None) -> None:
        self._interpreter = interpreter
        self._places = _by_number(interpreter.get_input_details())
        self._results = _by_number(interpreter.get_output_details())
        self.file, self.metadata = found.file, found.metadata
        self.inputs, self.outputs = found.inputs, found.outputs
        self.facts = {"options": {"threads": threads}}

    def answer(self, feed: Mapping[str, np.ndarray]) -> Any:
        """Raises Crashed when the runtime fails."""
        return in_parts(self._run, feed, self.inputs, self.outputs, ROWS, exact=True)

    def _run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        interpreter = self._interpreter
        try:
            for spec, place in zip(self.inputs, self._places, strict=True):
                interpreter.set_tensor(place, np.ascontiguousarray(feed[spec.name]))
            interpreter.invoke()
            return [interpreter.get_tensor(place) for place in self._results]
        except (RuntimeError, ValueError) as error:
            raise Crashed(f"LiteRT failed on {self.file} ({archive.line(error)}).") from error


class LiteRt(archive.Archived):
    name = "litert"
    title = "LiteRT"
    suffix = ".tflite"
    forms = ("unrolled",)
    runtime = "ai_edge_litert.interpreter"
    packages = ("ai-edge-litert", "litert-torch")
    quick = False

    def ready(self) -> None:
        """Raises Unusable where the runtime, or the converter, is not installed."""
        _load("ai_edge_litert")
        if importlib.util.find_spec("litert_torch") is None:
            raise Unusable(
                "LiteRT files are made by litert-torch, which is not installed; pip install "
                "litert-torch, in an environment of its own (docs/targets.md)."
            )

    def build(self, graph: OdeGraph, plan: Plan, form: str) -> archive.Packed:
        converter = _load("litert_torch")
        from odedeploy.formats.torched import program_of

        program = program_of(graph, plan, form, "LiteRT", rows=ROWS, plain=True)
        try:
            with quiet(), tempfile.TemporaryDirectory(prefix="odedeploy-") as folder:
                file = Path(folder) / "model.tflite"
                converter.convert(program.module(), program.example_inputs[0]).export(str(file))
                data = file.read_bytes()
        except Exception as error:
            raise BadInput(
                f"LiteRT cannot hold this model ({archive.line(error)}); take the format onnx."
            ) from error
        return archive.Packed(data, archive.signature(graph, plan))

    def open(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> LiteRtModel:
        found = self.checked(path, threads, options)
        data = found.payload()
        interpreter = _load("ai_edge_litert.interpreter").Interpreter
        try:
            loaded = interpreter(model_content=data, num_threads=threads)
            loaded.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise BadInput(
                f"{found.file} is not a file that LiteRT can load ({archive.line(error)}); export "
                "it again."
            ) from error
        return LiteRtModel(loaded, found, threads)


def _by_number(details: list[dict[str, Any]]) -> list[int]:
    """Places of the tensors in the order of the arguments that their names end in."""

    def number(detail: dict[str, Any]) -> int:
        digits = re.findall(r"\d+", detail["name"].partition(":")[0])
        return int(digits[-1]) if digits else 0

    return [detail["index"] for detail in sorted(details, key=number)]
