"""A share of the processor for a process, by the control groups of Linux.

A quota is the processor time that all threads together may use in a second, in CPUs. The kernel
hands it out by periods; whoever has used up a period's share waits for the next one (Linux,
Documentation/scheduler/sched-bwc.rst; version 2: Documentation/admin-guide/cgroup-v2.rst). Making
a group usually takes root's rights.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from odedeploy.errors import Unusable

PERIOD_MS = 100.0
"""Length of a period, the kernel's own default and that of container runtimes."""

LEAST = 0.01
"""Smallest quota that the kernel takes at this period."""

PROC = Path("/proc/self")

_KEEPER = """
read -r _
for _ in $(seq 200); do
  [ -d "$1" ] && ! rmdir "$1" 2>/dev/null || exit 0
  sleep 0.05
done
"""
_numbers = itertools.count()


@dataclass(frozen=True)
class Hierarchy:
    """Where the CPU controller is mounted, and ``own``, the group of this process in it."""

    version: int
    mount: Path
    own: Path

    @property
    def ancestors(self) -> Iterator[Path]:
        """The own group, the one around it and so on to the mount."""
        place = self.own
        while place != self.mount and self.mount in place.parents:
            yield place
            place = place.parent
        yield self.mount

    def nursery(self) -> Path | None:
        """The nearest group in which another may be made that has a quota; in version 2, one that
        hands the controller on."""
        if self.version == 1:
            return self.own
        for place in self.ancestors:
            if "cpu" in _text(place / "cgroup.subtree_control").split():
                return place
        return None


def hierarchy(proc: Path = PROC) -> Hierarchy | None:
    """That of the CPU controller, version 1 where it is mounted there; None without any."""
    mounts: dict[int, tuple[str, Path]] = {}
    for line in _text(proc / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        root, place = before.split()[3:5]
        kind, *_, options = after.split()
        if kind == "cgroup" and "cpu" in options.split(","):
            mounts[1] = root, Path(place)
        elif kind == "cgroup2":
            mounts[2] = root, Path(place)
    if not mounts:
        return None
    version = min(mounts)
    root, mount = mounts[version]
    return Hierarchy(version, mount, _own(proc, version, root.rstrip("/"), mount))


def limit(proc: Path = PROC) -> float | None:
    """The quota under which this process runs itself; None where there is none."""
    found = hierarchy(proc)
    if found is None:
        return None
    quotas = [_quota(place, found.version) for place in found.ancestors]
    return min((quota for quota in quotas if quota is not None), default=None)


def statistics(proc: Path = PROC) -> Path | None:
    """The file that tells how often the group of this process has been throttled."""
    found = hierarchy(proc)
    return None if found is None else found.own / "cpu.stat"


def throttled(file: Path | None) -> int | None:
    """Periods so far in which the quota ran out; None where nothing counts them."""
    for line in [] if file is None else _text(file).splitlines():
        name, _, value = line.partition(" ")
        if name == "nr_throttled":
            return int(value)
    return None


def refusal(quota: float) -> str | None:
    """None where a process may be given that quota here, else a sentence: why not, what to do."""
    try:
        with Group(quota):
            return None
    except Unusable as error:
        return str(error)


class Group:
    """A control group with a quota. Use as a context manager: leaving it removes the group, whose
    processes must have ended.

    It is removed as well when this process is killed, as soon as its processes are gone: a shell
    waits for the end of its standard input, whatever brings it about.

    Raises Unusable where no group can be made.
    """

    def __init__(self, quota: float, proc: Path = PROC) -> None:
        found = hierarchy(proc)
        nursery = None if found is None else found.nursery()
        if found is None or nursery is None:
            raise Unusable(
                "a quota needs Linux with the cpu controller of its control groups; enable it, in "
                "version 2 by: echo +cpu > /sys/fs/cgroup/cgroup.subtree_control."
            )
        self.path = nursery / f"odedeploy-{os.getpid()}-{next(_numbers)}"
        self._keeper: subprocess.Popen[bytes] | None = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, "sh", str(self.path)], stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            self.path.mkdir()
            for name, value in _settings(quota, found.version):
                (self.path / name).write_text(value)
        except OSError as error:
            self.close()
            raise Unusable(_refused(self.path, error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, pid: int) -> None:
        """Bring in a process with all its threads, and whatever it starts from now on.

        Raises Unusable where the system refuses.
        """
        try:
            (self.path / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise Unusable(_refused(self.path, error)) from error

    def close(self) -> None:
        """Remove the group, once."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.communicate()


def _settings(quota: float, version: int) -> list[tuple[str, str]]:
    period = round(1e3 * PERIOD_MS)
    share = round(quota * period)
    if version == 1:
        return [("cpu.cfs_period_us", str(period)), ("cpu.cfs_quota_us", str(share))]
    return [("cpu.max", f"{share} {period}")]


def _quota(place: Path, version: int) -> float | None:
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if version == 1 else ("cpu.max",)
    words = " ".join(_text(place / name) for name in names).split()
    if len(words) != 2 or words[0] in ("-1", "max"):
        return None
    return int(words[0]) / int(words[1])


def _own(proc: Path, version: int, root: str, mount: Path) -> Path:
    for line in _text(proc / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        known = "cpu" in controllers.split(",") if version == 1 else not controllers
        if known and path.startswith(root + "/") and ".." not in path:
            return mount / path[len(root) + 1 :]
    return mount


def _refused(path: Path, error: OSError) -> str:
    return (
        f"its quota needs a control group in {path.parent}, which the system refuses "
        f"({error.strerror}); run as root, where the control groups can be written."
    )


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
