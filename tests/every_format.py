"""The table of formats as parameters of tests."""

from __future__ import annotations

import pytest

from odedeploy.errors import Unusable
from odedeploy.formats import FORMATS, Format, find

COMPILED = ("aoti", "executorch", "litert")
"""Formats that take tens of seconds to build, and so are left to the slow tests."""


def marked(name: str, *others: str) -> object:
    return pytest.param(name, *others, marks=[pytest.mark.slow] if name in COMPILED else [])


NAMES = [marked(name) for name in FORMATS]


def usable(name: str) -> Format:
    """The format; the test is skipped where its packages are missing."""
    form = find(name)
    try:
        form.ready()
    except Unusable as reason:
        pytest.skip(str(reason))
    return form
