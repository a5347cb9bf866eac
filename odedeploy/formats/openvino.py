"""OpenVINO's intermediate representation: ``model.xml`` and ``model.bin`` in one archive.

``unzip`` gives the pair that programs without odedeploy read.
"""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from odedeploy.errors import BadInput, Crashed
from odedeploy.formats import archive
from odedeploy.formats.optional import module
from odedeploy.runtime import Artefact

if TYPE_CHECKING:
    import onnx_ir as ir

    from odedeploy.graph import OdeGraph
    from odedeploy.program import Plan

XML, BIN = "model.xml", "model.bin"

SHAPES = 8
"""Shapes of inputs for which a compiled model is kept; each is compiled when it first comes."""


_openvino = partial(module, "openvino", title="OpenVINO", extra="openvino")


SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1, "SNIPPETS_MODE": "DISABLE"}
"""Of the CPU device. Snippets, its own compiler of element-wise chains, ends the process with a
segmentation fault on unrolled dense fields (2026.4)."""


class OpenVinoModel(Artefact):
    """A loaded representation. It is compiled for every shape of its inputs, since fixed shapes
    run up to twice as fast."""

    def __init__(self, model: Any, found: archive.Contents, settings: Mapping[str, Any]) -> None:
        self._model, self._settings = model, dict(settings)
        self._compiled: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self.file, self.metadata = found.file, found.metadata
        self.inputs, self.outputs = found.inputs, found.outputs
        self.facts = {"options": {name: str(value) for name, value in settings.items()}}

    def answer(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Raises Crashed when OpenVINO fails."""
        arrays = [np.ascontiguousarray(feed[spec.name]) for spec in self.inputs]
        try:
            request = self._request(tuple(array.shape for array in arrays))
            request.infer(arrays, share_inputs=True)
            return [request.get_output_tensor(i).data.copy() for i in range(len(self.outputs))]
        except RuntimeError as error:
            raise Crashed(f"OpenVINO failed on {self.file} ({archive.line(error)}).") from error

    def _request(self, shapes: tuple[Any, ...]) -> Any:
        if shapes not in self._compiled:
            model = self._model.clone()
            model.reshape({i: list(shape) for i, shape in enumerate(shapes)})
            compiled = _openvino().Core().compile_model(model, "CPU", self._settings)
            self._compiled[shapes] = compiled.create_infer_request()
        self._compiled.move_to_end(shapes)
        while len(self._compiled) > SHAPES:
            self._compiled.popitem(last=False)
        return self._compiled[shapes]


class OpenVino(archive.Archived):
    name = "openvino"
    title = "OpenVINO"
    settings = ("properties of OpenVINO, in capitals",)
    suffix = ".openvino"
    forms = ("unrolled",)
    runtime = "openvino"
    packages = ("openvino",)
    quick = True

    def ready(self) -> None:
        """Raises Unusable where OpenVINO is not installed."""
        _openvino()

    def build(self, graph: OdeGraph, plan: Plan, form: str) -> archive.Packed:
        from odedeploy.lowering import lower
        from odedeploy.passes import clean

        if form != "unrolled":
            raise BadInput(f"OpenVINO's files hold unrolled solves only, not the form {form!r}.")
        return self.converted(clean(lower(graph, plan, form)), graph, plan)

    def converted(self, model: ir.Model, graph: OdeGraph, plan: Plan) -> archive.Packed:
        """The representation of a lowered model, whatever its precision."""
        import onnx_ir as ir

        runtime = _openvino()
        text = ir.to_proto(model).SerializeToString()
        try:
            found = runtime.Core().read_model(text)
        except RuntimeError as error:
            raise BadInput(
                f"OpenVINO cannot hold this model ({archive.line(error)}); take the format onnx."
            ) from error
        buffer = io.BytesIO()
        with tempfile.TemporaryDirectory(prefix="odedeploy-") as folder:
            runtime.serialize(found, str(Path(folder) / XML), str(Path(folder) / BIN))
            with zipfile.ZipFile(buffer, "w") as pair:
                for name in (XML, BIN):
                    pair.writestr(zipfile.ZipInfo(name), (Path(folder) / name).read_bytes())
        return archive.Packed(buffer.getvalue(), archive.signature(graph, plan))

    def open(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> OpenVinoModel:
        """``options`` are properties of OpenVINO's CPU device, in capitals. Arithmetic is float32
        unless they say otherwise: by itself OpenVINO may choose bfloat16."""
        asked = dict(options or {})
        unknown = {name: x for name, x in asked.items() if not name.isupper()}
        found = self.checked(path, threads, unknown)
        runtime = _openvino()
        settings: dict[str, Any] = dict(SETTINGS)
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            with zipfile.ZipFile(found.file) as pair:
                text, weights = pair.read(XML), np.frombuffer(pair.read(BIN), np.uint8)
            model = runtime.Core().read_model(text, runtime.Tensor(weights))
        except (RuntimeError, KeyError, zipfile.BadZipFile) as error:
            raise BadInput(
                f"{found.file} is not a representation that OpenVINO can load "
                f"({archive.line(error)}); export it again."
            ) from error
        return OpenVinoModel(model, found, {**settings, **asked})
