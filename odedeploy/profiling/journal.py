"""A sweep's journal: JSON lines, appended one by one, from which a killed sweep goes on.

The first line is the request. What comes after is written when it is known and never changed, so
that a process killed at any moment loses at most the line that it was writing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

from odedeploy.errors import BadInput

REQUEST = "request"


class Journal:
    """Lines by kind. Without a file it is kept in memory only.

    Use as a context manager: leaving it closes the file.
    """

    def __init__(self, file: BinaryIO | None = None, lines: list[dict[str, Any]] | None = None):
        self._file, self._lines = file, lines or []
        self._fresh: dict[str, Any] | None = None

    @classmethod
    def begin(cls, path: Path, request: Mapping[str, Any]) -> Journal:
        """A new journal in place of what ``path`` holds, from its first line on."""
        journal = cls(_opened(path))
        journal._fresh = {"kind": REQUEST, **request}
        return journal

    @classmethod
    def resume(cls, path: Path, request: Mapping[str, Any]) -> Journal:
        """The journal in ``path``, to go on with; a last line that is cut short is dropped.

        Raises BadInput where there is none, for one of another request, and for one that another
        process is writing.
        """
        if not path.is_file():
            raise BadInput(f"There is no sweep to resume in {path.parent}; drop --resume.")
        file = _opened(path)
        try:
            lines, whole = _read(file.read(), path)
            _check(lines, dict(request), path)
        except BadInput:
            file.close()
            raise
        file.truncate(whole)
        return cls(file, lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is None:
            return
        if self._fresh and not os.fstat(self._file.fileno()).st_size:
            os.unlink(self._file.name)
        self._file.close()

    def add(self, kind: str, **facts: Any) -> None:
        """Append one line. Raises BadInput when the disk is full."""
        line = {"kind": kind, **facts}
        self._lines.append(line)
        if self._file is None:
            return
        try:
            if self._fresh is not None:
                self._file.truncate(0)
                self._file.write(json.dumps(self._fresh).encode() + b"\n")
                self._fresh = None
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise BadInput(
                f"The journal cannot be written ({error.strerror}); free space and resume."
            ) from error

    def drop(self) -> None:
        """Forget a sweep in which nothing was done; no file stays behind."""
        if self._file is not None:
            self._file.truncate(0)
            self._fresh = None
            os.unlink(self._file.name)

    def of(self, *kinds: str) -> Iterator[dict[str, Any]]:
        """The lines of these kinds, oldest first."""
        return (line for line in self._lines if line["kind"] in kinds)


def _opened(path: Path) -> BinaryIO:
    """The file for appending and reading, locked against other processes where that is known."""
    try:
        file = open(path, "a+b")  # noqa: SIM115
    except OSError as error:
        raise BadInput(f"{path} cannot be written ({error.strerror}); choose another.") from error
    with suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise BadInput(
                f"Another sweep is writing in {path.parent}; wait for it, or choose another folder."
            ) from error
    file.seek(0)
    return file


def _read(data: bytes, path: Path) -> tuple[list[dict[str, Any]], int]:
    """Whole lines, and the bytes that they take."""
    whole = data.rfind(b"\n") + 1
    try:
        lines = [json.loads(line) for line in data[:whole].splitlines()]
    except ValueError as error:
        raise BadInput(f"{path} is damaged ({error}); sweep again without --resume.") from error
    if not lines or not isinstance(lines[0], dict) or lines[0].get("kind") != REQUEST:
        raise BadInput(f"{path} holds no sweep; sweep again without --resume.")
    return lines, whole


def _check(lines: list[dict[str, Any]], request: Mapping[str, Any], path: Path) -> None:
    """Raises BadInput unless the journal is of this request, naming where they differ."""
    before = {key: value for key, value in lines[0].items() if key != "kind"}
    asked = json.loads(json.dumps(request))
    for name in {**before, **asked}:
        if before.get(name) != asked.get(name):
            raise BadInput(
                f"The sweep in {path.parent} was begun with {name.replace('_', ' ')} "
                f"{_said(before.get(name))}, and this one has {_said(asked.get(name))}; ask for "
                "the same, or choose another folder."
            )


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_said, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_said(item)}" for key, item in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
