"""The machine as far as it matters for a latency; no host name and no user name."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from odedeploy import cgroups
from odedeploy._version import __version__
from odedeploy.errors import Unusable

PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "torch", "openvino", "executorch")


def fingerprint() -> dict[str, Any]:
    """Processor, cores, quota, clock policy, memory in GB (10⁹ bytes), load average and versions.

    What the system does not tell is None.
    """
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "cores": available_cores(),
        "cores_of_machine": os.cpu_count(),
        "quota": cgroups.limit(),
        "governor": _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "boost": _first_line("/sys/devices/system/cpu/cpufreq/boost"),
        "memory_gb": _memory_gb(),
        "load_average": load_average(),
        "platform": f"{platform.system()} {platform.release()}",
        "versions": {"odedeploy": __version__, "python": platform.python_version(), **versions},
    }


def emulator() -> str | None:
    """The program that emulates this process's processor, as far as it shows; None for none."""
    try:
        # /proc/self/exe is what user-mode QEMU makes up; this name of it reaches the system.
        name = os.path.basename(os.readlink("/proc/thread-self/exe"))
    except OSError:
        return None
    return name if name.startswith("qemu-") else None


def refuse_emulation() -> None:
    """Raises Unusable under an emulator, where every time would be the emulator's."""
    if found := emulator():
        raise Unusable(
            f"This process runs under {found}, whose times say nothing of a processor; measure on "
            "the device, and check only the answers here: python run.py --check in a kit."
        )


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory_mb() -> float | None:
    """Memory that new processes may take, in 10⁶ bytes; None where the system does not tell."""
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None


def processor_times() -> tuple[float, ...]:
    """Ticks of all cores by kind, as Linux counts them; empty elsewhere."""
    first = (_first_line("/proc/stat") or "").split()
    return tuple(map(float, first[1:])) if first[:1] == ["cpu"] else ()


def stolen(before: tuple[float, ...], after: tuple[float, ...]) -> float | None:
    """Share of the processor time between two looks that the hypervisor gave to others."""
    spent = [end - start for start, end in zip(before, after, strict=False)]
    if len(spent) < 8 or sum(spent[:8]) <= 0:
        return None
    return round(spent[7] / sum(spent[:8]), 4)


def load_average() -> float | None:
    """Runnable processes over the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    for line in _lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) * 1024 / 1e9, 1)
    return None


def _first_line(path: str) -> str | None:
    return next(iter(_lines(path)), None)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
