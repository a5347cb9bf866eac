"""Unroll trained Neural ODEs to certified fixed-step solves and export them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from odedeploy._version import __version__

if TYPE_CHECKING:
    from odedeploy.api import capture as capture
    from odedeploy.api import capture_field as capture_field
    from odedeploy.api import check as check
    from odedeploy.api import export as export
    from odedeploy.api import plan as plan
    from odedeploy.api import profile as profile
    from odedeploy.api import retarget as retarget
    from odedeploy.api import verify as verify
    from odedeploy.formats import load as load

_PUBLIC = {
    "capture": "odedeploy.api",
    "capture_field": "odedeploy.api",
    "check": "odedeploy.api",
    "export": "odedeploy.api",
    "plan": "odedeploy.api",
    "profile": "odedeploy.api",
    "retarget": "odedeploy.api",
    "verify": "odedeploy.api",
    "load": "odedeploy.formats",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'odedeploy' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
