"""The engines, and what they need: node, packages of npm and, for one, a browser."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from odedeploy.errors import UnknownName

FOLDER = "ODEDEPLOY_NODE_MODULES"
"""Environment variable with the path of npm's folder ``node_modules``, by default the one in the
working directory."""

BROWSER = "CHROMIUM"
"""Environment variable with the browser's program."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Engine:
    """``packages`` are those of npm, first the one that runs the files. ``provider`` is its name
    for where it computes. ``most_threads`` is None where there is no bound, and ``settling``
    how many runs go by before the latency is what it stays."""

    name: str
    packages: tuple[str, ...]
    provider: str
    browser: bool = False
    most_threads: int | None = None
    settling: int = 0


ENGINES: Mapping[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine("node", ("onnxruntime-node",), "cpu"),
        # V8 compiles WebAssembly anew, and better, once it has run for a while.
        Engine("wasm", ("onnxruntime-web", "playwright-core"), "wasm", browser=True,
               most_threads=1, settling=500),
    )
}  # fmt: skip


def find(name: str) -> Engine:
    """The engine of that name; raises UnknownName with the known ones."""
    if name not in ENGINES:
        raise UnknownName("engine", name, ENGINES)
    return ENGINES[name]


def folder() -> Path:
    """Where npm's packages are looked for."""
    return Path(os.environ.get(FOLDER) or "node_modules").resolve()


def browser() -> str | None:
    """The program of a Chromium, or None."""
    named = os.environ.get(BROWSER)
    return next(filter(None, map(shutil.which, [named] if named else BROWSERS)), None)


def missing(engine: Engine) -> str | None:
    """None when ``engine`` has all that it needs, else a sentence: what is missing, what to do."""
    if shutil.which("node") is None:
        return "node is not installed; install Node.js 20 or newer."
    here = folder()
    absent = [name for name in engine.packages if version(name) is None]
    if absent:
        # What their install scripts fetch beside the packages is not needed.
        return (
            f"{here} lacks {' and '.join(absent)}; npm install --ignore-scripts "
            f"{' '.join(engine.packages)} in {here.parent}, or set {FOLDER} to the node_modules "
            "that has them."
        )
    if engine.browser and browser() is None:
        asked = os.environ.get(BROWSER)
        return (
            f"there is no program {asked or ' or '.join(BROWSERS)}; install Chromium, or set "
            f"{BROWSER} to one."
        )
    return None


def version(package: str) -> str | None:
    """Version of a package of npm in ``folder()``, or None."""
    try:
        described = json.loads((folder() / package / "package.json").read_text(encoding="utf-8"))
        return str(described["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
