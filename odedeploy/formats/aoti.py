"""A library compiled ahead of time by AOTInductor, for processors like this one."""

from __future__ import annotations

import io
import os
import platform
import site
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from odedeploy.errors import BadInput, Crashed
from odedeploy.formats import archive
from odedeploy.formats.optional import quiet
from odedeploy.formats.torched import check_compiler, program_of, use_threads
from odedeploy.runtime import Artefact

if TYPE_CHECKING:
    from odedeploy.graph import OdeGraph
    from odedeploy.program import Plan

SOURCES = (".cpp", ".h", ".json.log")
"""Entries of a package that are the source of its library, with paths of this machine."""


class AotiModel(Artefact):
    """A loaded library."""

    limits = {"processor": f"{platform.machine()}, with the instructions of the one it was made on"}

    def __init__(self, module: Any, found: archive.Contents) -> None:
        self._module = module
        self.file, self.metadata = found.file, found.metadata
        self.inputs, self.outputs = found.inputs, found.outputs

    def answer(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Raises Crashed when the library fails."""
        tensors = [torch.from_numpy(np.array(feed[spec.name])) for spec in self.inputs]
        try:
            return [result.numpy() for result in self._module(*tensors)]
        except RuntimeError as error:
            raise Crashed(f"{self.file} failed ({archive.line(error)}).") from error


class Aoti(archive.Archived):
    name = "aoti"
    title = "AOTInductor"
    suffix = ".aoti.pt2"
    forms = ("unrolled",)
    runtime = "torch"
    packages = ("torch",)
    quick = False

    def ready(self) -> None:
        """Raises Unusable where there is no C++ compiler."""
        check_compiler("The format 'aoti'")

    def build(self, graph: OdeGraph, plan: Plan, form: str) -> archive.Packed:
        program = program_of(graph, plan, form, "AOTInductor")
        with tempfile.TemporaryDirectory(prefix="odedeploy-") as folder:
            package = Path(folder) / "model.pt2"
            try:
                with quiet():
                    torch._inductor.aoti_compile_and_package(
                        program, package_path=str(package), inductor_configs={"freezing": True}
                    )
            except Exception as error:
                raise BadInput(
                    f"AOTInductor cannot compile this model ({archive.line(error)}); take the "
                    "format onnx or pt2."
                ) from error
            data = _without_paths(package.read_bytes(), (folder,))
        return archive.Packed(data, archive.signature(graph, plan))

    def open(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> AotiModel:
        """``threads`` holds for the whole process."""
        found = self.checked(path, threads, options)
        try:
            module = torch._inductor.aoti_load_package(str(found.file))
        except Exception as error:
            raise BadInput(
                f"{found.file} is not a whole AOTInductor package ({archive.line(error)}); export "
                "it again."
            ) from error
        use_threads(threads)
        return AotiModel(module, found)


def _without_paths(package: bytes, temporary: tuple[str, ...]) -> bytes:
    """The package without sources, and its library without paths of this machine.

    Such paths are texts of error messages; each is overwritten by as many slashes.
    """
    places = {*site.getsitepackages(), sys.prefix, tempfile.gettempdir(), *temporary,
              str(Path(torch.__file__).parents[1]), str(Path.home()), os.getcwd()}  # fmt: skip
    stripped = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package)) as old, zipfile.ZipFile(stripped, "w") as new:
        for entry in old.infolist():
            if entry.filename.endswith(SOURCES):
                continue
            data = old.read(entry)
            for place in sorted(places, key=len, reverse=True):
                if len(place) > 1:
                    data = data.replace(place.encode(), b"/" * len(place.encode()))
            new.writestr(zipfile.ZipInfo(entry.filename), data)
    return stripped.getvalue()
