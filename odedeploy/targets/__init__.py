"""Targets: what an artefact is measured on, one per file, by name.

A new target is one file with a ``TARGET`` record and one line in ``TARGETS``. A person's own comes
from a package, as an entry point in the group ``odedeploy.targets`` that gives such a record, or
from a TOML file, whose path is then its name.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from odedeploy import cgroups
from odedeploy.errors import BadInput, UnknownName
from odedeploy.targets.custom import read as read_toml
from odedeploy.targets.installation import (
    Environment,
    conflicts,
    environment,
    execution_providers,
    installed,
)
from odedeploy.targets.records import Target

__all__ = ["TARGETS", "Environment", "Target", "environment", "find", "names", "usable"]

TARGETS: dict[str, str] = {
    "cpu": "odedeploy.targets.cpu:TARGET",
    "cpu-1t": "odedeploy.targets.cpu_1t:TARGET",
    "cpu-half": "odedeploy.targets.cpu_half:TARGET",
    "openvino": "odedeploy.targets.openvino:TARGET",
    "openvino-1t": "odedeploy.targets.openvino_1t:TARGET",
    "torchscript": "odedeploy.targets.torchscript:TARGET",
    "torchscript-1t": "odedeploy.targets.torchscript_1t:TARGET",
    "torch-compile": "odedeploy.targets.torch_compile:TARGET",
    "executorch": "odedeploy.targets.executorch:TARGET",
    "litert": "odedeploy.targets.litert:TARGET",
    "node": "odedeploy.targets.node:TARGET",
    "wasm": "odedeploy.targets.wasm:TARGET",
    "cuda": "odedeploy.targets.cuda:TARGET",
    "cuda-graph": "odedeploy.targets.cuda_graph:TARGET",
    "tensorrt": "odedeploy.targets.tensorrt:TARGET",
}

GROUP = "odedeploy.targets"
"""Group of the entry points by which other packages add targets."""

COMPILERS = ("g++", "clang++", "c++")


def names() -> tuple[str, ...]:
    """All targets by name, those of other packages last."""
    return tuple(dict.fromkeys((*TARGETS, *_added())))


def find(name: str) -> Target:
    """The target of that name, or of the TOML file at that path.

    Raises UnknownName with the known ones, and BadInput for a file that describes none.
    """
    if name.endswith(".toml"):
        return read_toml(name, _named)
    return _named(name)


def _named(name: str) -> Target:
    if name in TARGETS:
        module, _, attribute = TARGETS[name].partition(":")
        target: Target = getattr(import_module(module), attribute)
        return target
    added = _added()
    if name not in added:
        raise UnknownName("target", name, (*names(), "FILE.toml"))
    found = added[name].load()
    if not isinstance(found, Target):
        raise BadInput(
            f"The entry point {name!r} of {GROUP} gives a {type(found).__name__}; give an "
            "odedeploy.targets.Target."
        )
    return found


@cache
def _added() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def usable(target: Target) -> str | None:
    """None when the target works on this machine, else a sentence: why not and what to do."""
    problem = _missing(target) or (_provider(target) if target.runtime == "onnxruntime" else None)
    if problem is None and target.quota is not None:
        problem = cgroups.refusal(target.quota)
    return problem and f"Target {target.name!r} is not usable: {problem}"


def _missing(target: Target) -> str | None:
    for package in target.packages:
        if installed(package) is None:
            return f"{package} is not installed; pip install 'odedeploy[{target.extra}]'."
    if "engine" in target.options:
        from odedeploy.javascript import installation

        return installation.missing(installation.find(target.options["engine"]))
    asked = os.environ.get("CXX")
    compilers = [asked] if asked else COMPILERS
    if target.compiler and not any(shutil.which(name) for name in compilers):
        return f"it needs a C++ compiler, and there is no {' or '.join(compilers)}; install g++."
    return None


def _provider(target: Target) -> str | None:
    providers, problem = execution_providers()
    missing = [name for name in target.providers if name not in providers]
    if problem is not None or not missing:
        return problem
    clash = conflicts(installed)
    extra = f"pip install 'odedeploy[{target.extra}]' in an environment without onnxruntime"
    advice = f"{extra}." if target.extra else "install an onnxruntime built with it."
    return (
        f"onnxruntime lacks {', '.join(missing)} (it has {', '.join(providers)}): "
        f"{clash[0] if clash else advice}"
    )
