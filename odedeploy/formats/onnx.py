"""ONNX, run by onnxruntime: one self-contained file with the ODE graph in its metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from odedeploy import files
from odedeploy.errors import BadInput
from odedeploy.runtime import GRAPH, Artefact, load

if TYPE_CHECKING:
    import onnx_ir as ir

    from odedeploy.graph import OdeGraph
    from odedeploy.program import Plan

LIMIT = 2**31 - 1
"""Largest protobuf message in bytes."""


class BuiltOnnx:
    """A lowered model. ``metadata`` goes into every file that is written from it."""

    def __init__(self, model: ir.Model, metadata: Mapping[str, str]) -> None:
        self.model = model
        self.metadata = dict(metadata)

    def write(self, path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
        """Raises BadInput when the model exceeds 2 GB or the file cannot be written."""
        import onnx_ir as ir

        proto = ir.to_proto(self.model)
        kept = {entry.key: entry.value for entry in proto.metadata_props}
        del proto.metadata_props[:]
        for key, value in (kept | self.metadata | dict(metadata)).items():
            proto.metadata_props.add(key=key, value=value)
        size = proto.ByteSize()
        if size > LIMIT:
            raise BadInput(
                f"The model takes {size:,} bytes, more than the {LIMIT:,} of one ONNX file; "
                "export a smaller model or another format."
            )
        files.replace(path, proto.SerializeToString(deterministic=True))


class Onnx:
    name = "onnx"
    suffix = ".onnx"
    forms = ("unrolled", "loop", "adaptive")
    runtime = "onnxruntime"
    packages = ("onnx", "onnx-ir", "onnxruntime")
    quick = True

    def ready(self) -> None:
        """onnxruntime says for itself, when it opens a file, what it lacks."""

    def build(self, graph: OdeGraph, plan: Plan, form: str) -> BuiltOnnx:
        from odedeploy.graph.serial import pack
        from odedeploy.lowering import lower
        from odedeploy.passes import clean

        model = clean(lower(graph, plan, form))
        if graph.trace is not None:
            return BuiltOnnx(model, {})
        weights = {n: v for body in model.graphs() for n, v in body.initializers.items()}
        return BuiltOnnx(model, {GRAPH: pack(graph, weights)})

    def converted(self, model: ir.Model, graph: OdeGraph, plan: Plan) -> BuiltOnnx:
        """A lowered model in a lower precision; it holds no ODE graph."""
        return BuiltOnnx(model, {})

    def metadata(self, path: str | os.PathLike[str]) -> Mapping[str, str]:
        """What travels in a file."""
        return load(path).metadata

    def open(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Artefact:
        """``options`` are ``providers`` and the settings of ``odedeploy.runtime``, or ``engine``,
        one of ``odedeploy.javascript``."""
        settings = dict(options or {})
        if "engine" in settings:
            from odedeploy.javascript.model import open_in

            return open_in(settings.pop("engine"), path, threads, settings)
        providers = settings.pop("providers", None)
        return load(path, threads=threads, providers=providers, settings=settings)
