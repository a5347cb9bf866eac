"""Targets: what an artefact is measured on, one per file, by name.

A new target is one file with a ``TARGET`` record and one line in ``TARGETS``.
"""

from __future__ import annotations

from importlib import import_module

from odedeploy.errors import UnknownName
from odedeploy.targets.installation import (
    Environment,
    conflicts,
    environment,
    execution_providers,
    installed,
)
from odedeploy.targets.records import Target

__all__ = ["TARGETS", "Environment", "Target", "environment", "find", "usable"]

TARGETS: dict[str, str] = {
    "cpu": "odedeploy.targets.cpu:TARGET",
    "cpu-1t": "odedeploy.targets.cpu_1t:TARGET",
    "torchscript": "odedeploy.targets.torchscript:TARGET",
    "torchscript-1t": "odedeploy.targets.torchscript_1t:TARGET",
}


def find(name: str) -> Target:
    """The target of that name; raises UnknownName with the known ones."""
    if name not in TARGETS:
        raise UnknownName("target", name, TARGETS)
    module, _, attribute = TARGETS[name].partition(":")
    target: Target = getattr(import_module(module), attribute)
    return target


def usable(target: Target) -> str | None:
    """None when the target works on this machine, else a sentence: why not and what to do."""
    if target.runtime != "onnxruntime":
        return None
    providers, problem = execution_providers()
    missing = [name for name in target.providers if name not in providers]
    if problem is None and missing:
        clash = conflicts(installed)
        advice = clash[0] if clash else "install an onnxruntime built with it."
        problem = (
            f"onnxruntime lacks {', '.join(missing)} (it has {', '.join(providers)}): {advice}"
        )
    return problem and f"Target {target.name!r} is not usable: {problem}"
