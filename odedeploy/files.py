"""Files written whole or not at all, and their checksums."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from odedeploy.errors import BadInput


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that becomes ``path`` when the block ends without an exception.

    It is written under a temporary name in the same folder, flushed to the disk and renamed, so
    that ``path`` holds either what it held before or everything that was written. A symbolic link
    is followed. On any exception, KeyboardInterrupt included, nothing is left behind.

    Raises BadInput when the folder is missing, read-only or full, or ``path`` is no regular file.
    """
    target = Path(os.path.realpath(path))
    _check_target(target)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise BadInput(
                f"{target} cannot be written ({error.strerror or error}); "
                "free space there or choose another folder."
            ) from error
        raise


def replace(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all; raises BadInput as ``replacing`` does."""
    with replacing(path) as file:
        file.write(data)


def sha256(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of the file; raises BadInput when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read ({error.strerror or error}); check the name."
        ) from error


def _check_target(target: Path) -> None:
    if not os.path.isdir(target.parent):
        raise BadInput(f"{target} cannot be written: there is no folder {target.parent}; make it.")
    if os.path.exists(target) and not os.path.isfile(target):
        raise BadInput(f"{target} is not a regular file and stays as it is; give a file name.")
