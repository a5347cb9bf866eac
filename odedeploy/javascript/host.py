"""The process of an engine, and the files that are open in it."""

from __future__ import annotations

import atexit
import itertools
import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from odedeploy.child import Child
from odedeploy.errors import Crashed, Unusable
from odedeploy.javascript.installation import Engine, browser, folder, missing

START, END = 120.0, 5.0
"""Seconds within which an engine must have started, and for it to end."""


class Host:
    """``engine`` in a process of its own; ``process`` is the id of the one that computes, which for
    a browser is that of its page, and ``versions`` tells what runs there.

    Raises Unusable where something is missing or does not start.
    """

    def __init__(self, engine: Engine) -> None:
        if problem := missing(engine):
            raise Unusable(f"The engine {engine.name!r} is not usable: {problem}")
        node = shutil.which("node") or "node"
        with as_file(files("odedeploy.javascript")) as programs:
            asked = [engine.name, engine.packages[0], str(folder()), browser() or ""]
            self._child = Child(
                engine.packages[0], [node, str(programs / "host.mjs"), *asked]
            )
            try:
                ready = self._child.ask("start", START)
            except Crashed as error:
                raise Unusable(f"The engine {engine.name!r} does not start: {error}") from error
        if "error" in ready:
            self._child.finish(END)
            raise Unusable(
                f"The engine {engine.name!r} does not start ({ready['error']}); install it again."
            )
        self.engine = engine
        self.process: int | None = ready["process"]
        self.versions: dict[str, str] = ready["versions"]
        self._numbers, self._dropped = itertools.count(), list[int]()
        atexit.register(self._child.finish, END)

    @property
    def alive(self) -> bool:
        return self._child.alive

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Its answer, under "error" what it could not do; raises Crashed when it dies."""
        return self._child.ask(do, None, **request)

    def open(self, path: Path, threads: int | None) -> dict[str, Any]:
        """The answer to opening a file, with the ``id`` by which it is run."""
        dropped, self._dropped = self._dropped, []
        number = next(self._numbers)
        return self.ask(
            "open", id=number, path=str(path), threads=threads, dropped=dropped
        ) | {"id": number}

    def drop(self, number: int) -> None:
        """Close a file, once another is opened: whoever collects garbage may do so amid a
        question."""
        self._dropped.append(number)


_HOSTS: dict[str, Host] = {}


def host(engine: Engine) -> Host:
    """The one of an engine, started when there is none or it died; raises as ``Host`` does."""
    if engine.name not in _HOSTS or not _HOSTS[engine.name].alive:
        _HOSTS[engine.name] = Host(engine)
    return _HOSTS[engine.name]
