"""``odedeploy doctor``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from odedeploy import __version__
from odedeploy.cli import extras, output
from odedeploy.cli.options import Json

ONE_OF = ("onnxruntime", "onnxruntime-gpu")


def doctor(as_json: Json = False) -> None:
    """Say what is missing on this machine."""
    from odedeploy.targets import environment, find, names, usable

    here = environment()
    packages = [
        {"name": name, "version": version, "install": _advice(name, here.versions)}
        for name, version in here.versions.items()
    ]
    targets = [
        {"name": name, "usable": (reason := usable(find(name))) is None, "reason": reason}
        for name in names()
    ]
    found: dict[str, Any] = {
        "odedeploy": __version__,
        "python": here.python,
        "platform": here.platform,
        "packages": packages,
        "providers": list(here.providers),
        "targets": targets,
        "cache": _cache(),
        "problems": list(here.problems),
    }
    output.emit(found) if as_json else _show(found)


def _advice(package: str, versions: Mapping[str, str | None]) -> str | None:
    """How to install what is missing; one of the two onnxruntimes is enough."""
    if versions[package] or (package in ONE_OF and any(versions[name] for name in ONE_OF)):
        return None
    return extras.advice(package)


def _show(found: dict[str, Any]) -> None:
    cache = found["cache"]
    output.show(
        output.facts(
            "",
            [
                ("odedeploy", found["odedeploy"]),
                ("Python", found["python"]),
                ("platform", found["platform"]),
                ("onnxruntime providers", ", ".join(found["providers"]) or "none"),
                ("cache", f"{cache['path']}, {'' if cache['writable'] else 'not '}writable"),
            ],
        ),
        "",
        output.table(
            "",
            ("package", "version", "to install it"),
            [(p["name"], p["version"] or "missing", p["install"]) for p in found["packages"]],
        ),
        "",
        output.table(
            "", ("target", "here"),
            [(t["name"], t["reason"] or "usable") for t in found["targets"]],
        ),
        "",
        *(found["problems"] or ["No problem found."]),
    )  # fmt: skip


def _cache() -> dict[str, Any]:
    """Where data sets are kept, and whether they can be: the nearest folder that exists."""
    try:
        import pooch
    except ModuleNotFoundError:
        return {"path": None, "writable": False}
    path = Path(pooch.os_cache("odedeploy"))
    exists = next(folder for folder in (path, *path.parents) if folder.exists())
    return {"path": str(path), "writable": os.access(exists, os.W_OK)}
