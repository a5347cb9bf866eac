"""Runtimes and converters that are packages of their own, loaded when they are asked for."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from odedeploy.errors import Unusable


def module(name: str, title: str, extra: str) -> Any:
    """The module; raises Unusable, naming the extra that installs it, where it does not load."""
    try:
        with quiet():
            return import_module(name)
    except ImportError as error:
        raise Unusable(
            f"{title} is not usable here ({error}); pip install 'odedeploy[{extra}]'."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings and logged notices of other libraries, none of which a user can act on."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def hushed() -> Iterator[None]:
    """Without what native code writes to the process's standard error."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
