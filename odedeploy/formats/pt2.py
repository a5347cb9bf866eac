"""An exported program of PyTorch (``torch.export``), run by PyTorch or compiled by it."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping
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


PICKLES = ("custom_obj_", "opaque_obj_")
"""How the names of pickled objects begin in such a file."""


class Pt2Model(Artefact):
    """A loaded exported program, on the CPU unless ``device`` is another."""

    def __init__(
        self,
        module: Callable[..., Any],
        found: archive.Contents,
        device: str,
        facts: Mapping[str, Any],
    ) -> None:
        self._module, self._device = module, device
        self.file, self.metadata = found.file, found.metadata
        self.inputs, self.outputs = found.inputs, found.outputs
        self.facts = facts

    def answer(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Raises Crashed when torch fails."""
        arrays = [np.array(feed[spec.name]) for spec in self.inputs]
        tensors = [torch.from_numpy(array).to(self._device) for array in arrays]
        try:
            with torch.no_grad():
                return [result.cpu().numpy() for result in self._module(*tensors)]
        except Exception as error:  # guards, operators and the compiler raise what they like
            raise Crashed(f"PyTorch failed on {self.file} ({archive.line(error)}).") from error


class Pt2(archive.Archived):
    name = "pt2"
    title = "torch.export"
    settings = ("compile", "device")
    suffix = ".pt2"
    forms = ("unrolled",)
    runtime = "torch"
    packages = ("torch",)
    quick = False

    def ready(self) -> None:
        """PyTorch is all it takes."""

    def build(self, graph: OdeGraph, plan: Plan, form: str) -> archive.Packed:
        program = program_of(graph, plan, form, "An exported program")
        program._example_inputs = None
        buffer = io.BytesIO()
        with quiet():
            torch.export.save(program, buffer)
        return archive.Packed(buffer.getvalue(), archive.signature(graph, plan))

    def open(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Pt2Model:
        """``options`` are ``device``, ``"cpu"`` or ``"cuda"``, and ``compile``, which compiles the
        program by torch.compile when it first runs. ``threads`` holds for the whole process.
        """
        asked = dict(options or {})
        device = asked.get("device", "cpu")
        found = self.checked(path, threads, options)
        _refuse_pickles(found.file)
        try:
            with quiet():
                program = torch.export.load(str(found.file))
        except Exception as error:
            raise BadInput(
                f"{found.file} is not a whole exported program ({archive.line(error)}); export it "
                "again."
            ) from error
        use_threads(threads)
        if device != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        module: Callable[..., Any] = program.module()
        if asked.get("compile"):
            check_compiler("torch.compile")
            module = torch.compile(module)
        return Pt2Model(module, found, device, {"options": asked})


def _refuse_pickles(file: Path) -> None:
    """Raises BadInput for a file of which ``torch.export.load`` would unpickle a part: that may run
    any code. What odedeploy writes has none."""
    with zipfile.ZipFile(file) as whole:
        names = whole.namelist()
        folders = [Path(name) for name in names]
        legacy = [p for p in folders if p.suffix == ".pt" and p.parent.name != "sample_inputs"]
        plain = len(set(names)) == len(names) and any(p.name == "archive_format" for p in folders)
        texts = [whole.read(name) for name in names if name.endswith(".json")]
    try:
        pickled = any(_pickled(json.loads(text)) for text in texts)
    except ValueError as error:
        raise BadInput(f"{file} is damaged ({error}); export it again.") from error
    if pickled or legacy or not plain:
        raise BadInput(
            f"{file} holds pickled objects, which could run any code when it is loaded; export it "
            "again with odedeploy."
        )


def _pickled(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_pickled, value))
    if not isinstance(value, dict):
        return False
    name = value.get("path_name")
    named = isinstance(name, str) and name.startswith(PICKLES)
    return named or bool(value.get("use_pickle")) or any(map(_pickled, value.values()))
