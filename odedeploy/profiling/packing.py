"""A kit: artefacts, their golden data and a runner, in one zip for a device that is elsewhere.

The device needs Python with NumPy and onnxruntime. ``run.py`` measures every artefact with the
modules that measure here, which travel along, and writes ``result.json`` for
``odedeploy profile --merge``. The golden data are in the metadata of the artefacts.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from odedeploy import files, targets
from odedeploy.errors import BadInput
from odedeploy.manifest import Manifest
from odedeploy.profiling.records import Entry, model_of
from odedeploy.profiling.rows import certified
from odedeploy.runtime import load, read_golden, read_manifest
from odedeploy.targets import Target

MODULES = (
    "__init__.py", "_version.py", "cgroups.py", "child.py", "errors.py", "files.py", "manifest.py",
    "tolerance.py",
    "profiling/energy.py", "profiling/journal.py", "profiling/kit_run.py", "profiling/machine.py",
    "profiling/measure.py", "profiling/nvml.py", "profiling/openers.py", "profiling/process.py",
    "profiling/queries.py", "profiling/rapl.py", "profiling/stats.py", "profiling/usage.py",
    "profiling/worker.py",
)  # fmt: skip
"""What measures, beside the whole of ``runtime``; none needs more than NumPy and onnxruntime."""

RUN = '''"""Measure the artefacts of this kit: python run.py [--help]."""

import sys

if sys.version_info < (3, 11):
    sys.exit("This kit needs Python 3.11 or newer.")

from odedeploy.profiling.kit_run import main

if __name__ == "__main__":
    sys.exit(main())
'''

DEFAULT_TARGETS = ("cpu-1t", "cpu")


def pack(
    paths: Sequence[Path],
    output: Path,
    chosen: Sequence[Target] = (),
    known: Mapping[str, Entry] | None = None,
) -> Path:
    """Write the kit of ONNX files to ``output``, whole or not at all.

    ``chosen`` are the targets, by default all cores and one. ``known`` tells of files, by name,
    what they do not say of themselves: their model.

    Raises BadInput for no files, two of one name, and a file that odedeploy did not export as ONNX.
    """
    if not paths:
        raise BadInput("A kit needs at least one exported ONNX file; give some.")
    names = [path.name for path in paths]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"Two files of a kit are called {twice[0]}; rename one.")
    if output.is_dir():
        raise BadInput(f"{output} is a folder; give the name of a file.")
    index = {
        "artefacts": [_described(path, (known or {}).get(path.name)) for path in paths],
        "targets": [_target(t) for t in chosen or map(targets.find, DEFAULT_TARGETS)],
    }
    contents = {f"artefacts/{path.name}": path.read_bytes() for path in paths}
    contents |= _program()
    contents["kit.json"] = json.dumps(index, indent=1).encode()
    with files.replacing(output) as file:
        file.write(_zipped(contents))
    return output


def _described(path: Path, known: Entry | None) -> dict[str, Any]:
    """What will stand in the rows of an artefact, and its checksum."""
    if path.suffix != ".onnx":
        raise BadInput(f"A kit runs ONNX files, got {path}; export it as ONNX.")
    model = load(path)
    manifest: Manifest | None = read_manifest(model.metadata)
    if manifest is None or read_golden(model.metadata) is None:
        raise BadInput(f"{path} has no manifest or no golden inputs; export it with odedeploy.")
    return {
        "sha256": files.sha256(path),
        "row": {
            "model": model_of(path, manifest) if known is None else known.model,
            "tol": manifest.tol,
            "precision": manifest.precision,
            "format": manifest.format,
            "form": manifest.form,
            "solver": str(manifest.plan["solver"]),
            "nfe": int(manifest.plan["nfe"]),
            "error": certified(manifest.error),
            "error_report": asdict(manifest.error),
            "promise": manifest.promise,
            "plan": manifest.plan,
            "bytes": path.stat().st_size,
            "file": path.name,
            "command": "" if known is None else known.command,
        },
    }


def _target(target: Target) -> dict[str, Any]:
    return {
        "name": target.name, "threads": target.threads, "batch": target.batch,
        "providers": list(target.providers), "quota": target.quota,
    }  # fmt: skip


def _program() -> dict[str, bytes]:
    """The modules that measure, and the script that starts them."""
    package = resources("odedeploy")
    runtime = [f"runtime/{m.name}" for m in package.joinpath("runtime").iterdir()]
    names = [*MODULES, *sorted(name for name in runtime if name.endswith(".py"))]
    found = {f"odedeploy/{name}": package.joinpath(name).read_bytes() for name in names}
    # The library's own package initialisers draw in what a device lacks.
    found["odedeploy/profiling/__init__.py"] = b'"""What measures."""\n'
    return {**found, "run.py": RUN.encode()}


def _zipped(contents: Mapping[str, bytes]) -> bytes:
    """A zip that is the same, byte by byte, for the same contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(contents):
            archive.writestr(zipfile.ZipInfo(name), contents[name], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
