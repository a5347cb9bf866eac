"""``odedeploy kit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from odedeploy.cli import output as printed
from odedeploy.cli.options import Json


def kit(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Exported ONNX files.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The zip to write.")
    ] = Path("kit.zip"),
    as_json: Json = False,
) -> None:
    """Pack files, golden data and a runner for a device that is elsewhere.

    There, Python with NumPy and onnxruntime is all it needs: unpack, python run.py, and bring
    result.json back to odedeploy profile --merge result.json.
    """
    with printed.working() as progress:
        progress("packing", 0, 0)
        from odedeploy import api

        path = api.kit(files, output)
    size = path.stat().st_size
    if as_json:
        printed.emit({"file": str(path), "bytes": size, "artefacts": [f.name for f in files]})
        return
    printed.show(
        f"Wrote {path}, {printed.size(size)}. On the device: unzip {path.name}, python run.py. "
        "Then here: odedeploy profile --merge result.json"
    )
