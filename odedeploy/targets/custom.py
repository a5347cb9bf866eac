"""A person's own target, read from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from odedeploy.errors import BadInput
from odedeploy.targets.records import Target


def read(path: str, find: Callable[[str], Target]) -> Target:
    """The target that a TOML file describes by the fields of ``Target``.

    Fields that it leaves out are those of the target named under ``base``, ``"cpu"`` unless it
    says otherwise, which ``find`` gives; its name is by default the file's, and ``threads = "all"``
    stands for all cores. Raises BadInput for a file that cannot be read, and for unknown fields and
    values of another type.
    """
    file = Path(path)
    try:
        given: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); check the name.") from error
    except ValueError as error:
        raise BadInput(f"{path} is no TOML file ({error}); correct it.") from error
    base = find(str(given.pop("base", "cpu")))
    whole: dict[str, Any] = {field.name: getattr(base, field.name) for field in fields(Target)}
    given.setdefault("name", file.stem)
    given.setdefault("description", f"{base.description}, as {file.name} has it")
    for name, value in given.items():
        if name not in whole:
            raise BadInput(f"{path} has the field {name!r}; a target has {', '.join(whole)}.")
        whole[name] = _checked(path, name, value)
    return Target(**whole)


def _checked(path: str, name: str, value: Any) -> Any:
    if name == "threads" and value == "all":
        return None
    kind = _KINDS[name]
    known: Any = (int, float) if kind is float else kind
    if not isinstance(value, known) or (isinstance(value, bool) and kind is not bool):
        raise BadInput(f"{path}: {name!r} is {value!r}; give a {_WORDS[kind]}.")
    return tuple(str(each) for each in value) if isinstance(value, list) else value


_KINDS: dict[str, type] = {
    field.name: {"int": int, "int | None": int, "bool": bool, "tuple[str, ...]": list,
                 "float | None": float,
                 "Mapping[str, Any]": dict}.get(str(field.type), str)
    for field in fields(Target)
}  # fmt: skip
_WORDS = {int: "whole number", bool: "true or false", list: "list", dict: "table", str: "text",
          float: "number"}

