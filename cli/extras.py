"""Which extra of odedeploy brings a dependency, as its own metadata says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache


@cache
def of_distributions() -> Mapping[str, str]:
    """Distribution → extra; empty for those that every install has, such as NumPy."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires("odedeploy") or []
    except PackageNotFoundError:
        return {}
    pattern = re.compile(r"""^([\w.-]+)[^;]*(?:;.*extra\s*==\s*["']([\w-]+)["'])?""")
    found = [match.groups(default="") for line in lines if (match := pattern.match(line))]
    return {name.lower().replace("_", "-"): extra for name, extra in found}


def advice(module: str) -> str | None:
    """``pip install …`` for the distribution or module of that name; None when it is no ours."""
    extra = of_distributions().get(module.lower().replace("_", "-"))
    if extra is None:
        return None
    return f"pip install 'odedeploy[{extra}]'" if extra else "pip install odedeploy"
