"""Finding a person's own code: ``path/to/file.py:name`` or ``package.module:name``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from odedeploy.errors import BadInput


def resolve(address: str, what: str, purpose: str) -> Any:
    """The object at ``address``; ``what`` it should be and its ``purpose`` go into messages.

    Raises BadInput for an address that leads nowhere, and for code that raises when it is imported.
    """
    source, _, attribute = address.rpartition(":")
    if not source:
        raise BadInput(
            f"{address!r} names no {what}; give path/to/file.py:callable or "
            "package.module:callable."
        )
    module = _from_file(Path(source), what) if source.endswith(".py") else _from_package(source)
    found = getattr(module, attribute, None)
    if found is None:
        raise BadInput(f"{source} has no {attribute!r}; name the function that {purpose}.")
    return found


def first_line(error: Exception) -> str:
    """The first line of an exception's message, not too long."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "no message"


def _from_file(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        raise BadInput(f"The {what} file {path} does not exist.")
    name = f"_odedeploy_{what}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadInput(f"{path} raised {type(error).__name__}: {first_line(error)}.") from error
    finally:
        sys.path.remove(folder)
    return module


def _from_package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BadInput(f"{name} cannot be imported ({first_line(error)}).") from error
    except Exception as error:
        raise BadInput(f"{name} raised {type(error).__name__}: {first_line(error)}.") from error
