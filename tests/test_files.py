from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from odedeploy import files
from odedeploy.errors import BadInput


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    return path


def only(target: Path) -> bytes:
    """The target's bytes, provided that nothing else is in its folder."""
    assert list(target.parent.iterdir()) == [target]
    return target.read_bytes()


def test_replaces_whole_file(target: Path) -> None:
    files.replace(target, b"new")
    assert only(target) == b"new"


def test_new_file_has_ordinary_permissions(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        files.replace(tmp_path / "new", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_leaves_old_file(
    target: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(BadInput, match="No space left on device"):
        files.replace(target, b"new")
    monkeypatch.undo()
    assert only(target) == b"old"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_interruption_leaves_old_file(target: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), files.replacing(target) as file:
        file.write(b"half")
        raise error
    assert only(target) == b"old"


def test_link_is_followed(target: Path) -> None:
    link = target.parent / "link"
    link.symlink_to(target)
    files.replace(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"


def test_refuses_folder_device_and_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a regular file"):
        files.replace(tmp_path, b"")
    with pytest.raises(BadInput, match="not a regular file"):
        files.replace("/dev/null", b"")
    assert not Path("/dev/null").is_file()
    with pytest.raises(BadInput, match="there is no folder"):
        files.replace(tmp_path / "missing" / "m.onnx", b"")


def test_refuses_folder_that_takes_no_files(tmp_path: Path) -> None:
    folder = Path("/proc/self")
    if not folder.is_dir():
        folder = tmp_path / "closed"
        folder.mkdir(mode=0o555)
    with pytest.raises(BadInput, match="cannot be written"):
        files.replace(folder / "m.onnx", b"")


def test_sha256(target: Path) -> None:
    assert files.sha256(target) == hashlib.sha256(b"old").hexdigest()
    with pytest.raises(BadInput, match="cannot be read"):
        files.sha256(target.with_name("missing"))
