"""Metadata of the formats other than ONNX: entries of a zip archive, in the file itself.

A file of PyTorch's is such an archive already. To any other the archive is appended, as TensorFlow
Lite's own associated files are: programs that read from the front never see it. Entries lie in a
folder ``extra``; one holds the signature, one the SHA-256 of the bytes before the archive.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from odedeploy import files
from odedeploy.errors import BadInput
from odedeploy.manifest import TensorSpec

if TYPE_CHECKING:
    from odedeploy.graph import OdeGraph
    from odedeploy.program import Plan

SIGNATURE = "odedeploy.signature"
"""Names, dtypes and shapes of inputs and outputs, as JSON."""

CHECKSUM = "odedeploy.sha256"
"""SHA-256 of a payload that is no archive itself."""

_EXTRA = "extra/"


@dataclass(frozen=True)
class Packed:
    """An artefact as the bytes of its own format."""

    data: bytes
    signature: str

    def write(self, path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
        """Whole or not at all, the metadata inside; raises BadInput as ``files`` does."""
        buffer = io.BytesIO(self.data)
        extra = {**metadata, SIGNATURE: self.signature}
        if not zipfile.is_zipfile(buffer):
            extra[CHECKSUM] = hashlib.sha256(self.data).hexdigest()
        with zipfile.ZipFile(buffer, "a") as archive:
            root = _root(archive)
            for name, text in extra.items():
                archive.writestr(zipfile.ZipInfo(f"{root}{_EXTRA}{name}"), text)
        files.replace(path, buffer.getvalue())


class Archived:
    """A format whose files are, or end in, such an archive.

    ``title`` is what people call it, and ``settings`` are its options.
    """

    name: str
    title: str
    settings: tuple[str, ...] = ()

    def checked(
        self,
        path: str | os.PathLike[str],
        threads: int | None,
        options: Mapping[str, object] | None,
    ) -> Contents:
        """What a file that is about to be opened says of itself.

        Raises BadInput for fewer threads than one, an option that the format does not have, and a
        file that odedeploy did not write in it.
        """
        if threads is not None and threads < 1:
            raise BadInput(f"threads must be at least 1, got {threads}.")
        if unknown := sorted(set(options or {}) - set(self.settings)):
            raise BadInput(
                f"The format {self.name!r} has no option {unknown[0]!r}; it has "
                f"{list(self.settings) or 'none'}."
            )
        return contents(path, self.title)

    def metadata(self, path: str | os.PathLike[str]) -> Mapping[str, str]:
        """What travels in a file; its runtime is not needed."""
        return contents(path, self.title).metadata


@dataclass(frozen=True)
class Contents:
    """What a file says of itself."""

    file: Path
    metadata: dict[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    options: tuple[TensorSpec, ...]

    def payload(self) -> bytes:
        """The bytes before the archive; raises BadInput when they are not those written."""
        data = self.file.read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            first = min(entry.header_offset for entry in archive.infolist())
            names = [n for n in archive.namelist() if n.endswith(CHECKSUM)]
            wanted = archive.read(names[0]).decode() if names else ""
        if hashlib.sha256(data[:first]).hexdigest() != wanted:
            raise BadInput(f"{self.file} is damaged; copy or export it again.")
        return data[:first]


def contents(path: str | os.PathLike[str], kind: str) -> Contents:
    """What ``path`` says of itself; raises BadInput when odedeploy did not write it as ``kind``."""
    file, found = Path(path), {}
    try:
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                before, extra, key = name.rpartition(_EXTRA)
                if extra and key and before.count("/") <= 1:
                    found[key] = archive.read(name).decode("utf-8")
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{file} is no readable {kind} file of odedeploy ({reason}).") from error
    if SIGNATURE not in found:
        raise BadInput(f"{file} is not a {kind} file of odedeploy; export it again.")
    sides = _read_signature(found.pop(SIGNATURE))
    found.pop(CHECKSUM, None)
    return Contents(file, found, *sides)


def _root(archive: zipfile.ZipFile) -> str:
    """The folder that an archive of PyTorch's keeps everything in, with its slash."""
    roots = {name.partition("/")[0] for name in archive.namelist() if "/" in name}
    whole = all("/" in name for name in archive.namelist())
    return f"{roots.pop()}/" if whole and len(roots) == 1 else ""


def signature(graph: OdeGraph, plan: Plan) -> str:
    """The text of what the artefact of ``plan`` takes and gives, and of its options."""
    from odedeploy.graph import delivered_specs, input_specs
    from odedeploy.program.control import OPTIONS

    sides = {
        "inputs": input_specs(graph.model),
        "outputs": delivered_specs(graph.model, plan),
        "options": [TensorSpec(n, d, ()) for n, d in OPTIONS] if plan.control else [],
    }
    return json.dumps(
        {side: [[s.name, s.dtype, s.shape] for s in specs] for side, specs in sides.items()}
    )


def _read_signature(text: str) -> tuple[tuple[TensorSpec, ...], ...]:
    """Inputs, outputs and options, which a file without any need not name."""
    try:
        data = {"options": [], **json.loads(text)}
        sides = tuple(
            tuple(TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in data[side])
            for side in ("inputs", "outputs", "options")
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"The file's signature is damaged ({error!r}); export it again.") from error
    return sides


def line(error: BaseException) -> str:
    """The line of a runtime's message that says what happened: the last, of the first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip().rstrip(".")[:300]
