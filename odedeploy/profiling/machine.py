"""The machine as far as it matters for a latency; no host name and no user name."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from odedeploy._version import __version__
from odedeploy.targets.installation import installed


def fingerprint() -> dict[str, Any]:
    """Processor, cores, clock policy, memory in GB (10⁹ bytes), load average and versions.

    What the system does not tell is None.
    """
    versions = {
        name: installed(name) for name in ("numpy", "onnxruntime", "onnxruntime-gpu", "torch")
    }
    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "cores": available_cores(),
        "cores_of_machine": os.cpu_count(),
        "governor": _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "boost": _first_line("/sys/devices/system/cpu/cpufreq/boost"),
        "memory_gb": _memory_gb(),
        "load_average": load_average(),
        "platform": f"{platform.system()} {platform.release()}",
        "versions": {"odedeploy": __version__, "python": platform.python_version(), **versions},
    }


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float | None:
    """Runnable processes over the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


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
