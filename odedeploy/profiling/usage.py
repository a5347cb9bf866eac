"""Processor time and memory of a process."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

REST_STEP_NS, REST_LIMIT_NS = 5_000_000, 300_000_000


class Usage:
    """What a process takes, this one or that of the id ``process``."""

    def __init__(self, process: int | None = None) -> None:
        self._process = process
        self._folder = Path("/proc", "self" if process is None else str(process))

    def cpu_ns(self) -> int:
        """Processor time of all its threads, in ns."""
        if self._process is None:
            return time.process_time_ns()
        with suppress(OSError, ValueError, IndexError):
            threads = (self._folder / "task").glob("*/schedstat")
            if times := [int(thread.read_text().split()[0]) for thread in threads]:
                return sum(times)
        spent = self._psutil("cpu_times")
        return 0 if spent is None else int(1e9 * (spent.user + spent.system))

    def rest(self) -> float:
        """Wait until none of its threads computes, so that the next process has the cores to
        itself; returns the processor time burnt meanwhile, in ms. Thread pools of onnxruntime and
        of OpenMP busy-wait for tens of milliseconds after a run."""
        began, deadline = self.cpu_ns(), time.perf_counter_ns() + REST_LIMIT_NS
        while time.perf_counter_ns() < deadline:
            before = self.cpu_ns()
            time.sleep(REST_STEP_NS / 1e9)
            if self.cpu_ns() - before < REST_STEP_NS / 20:
                break
        return (self.cpu_ns() - began) / 1e6

    def resident_mb(self) -> float | None:
        """Memory that it holds now, in 10⁶ bytes; None where the system does not tell."""
        return self._status("VmRSS") or self._memory("rss")

    def peak_mb(self) -> float | None:
        """Most memory that it has held, in 10⁶ bytes.

        Linux carries ``ru_maxrss`` over from the parent through exec, so it is read only elsewhere.
        """
        if high := self._status("VmHWM") or self._memory("peak_wset"):
            return high
        if self._process is not None:
            return self._memory("rss")
        try:
            import resource
        except ImportError:
            return None
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6

    def _status(self, field: str) -> float | None:
        with suppress(OSError), open(self._folder / "status") as lines:
            for line in lines:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024 / 1e6
        return None

    def _memory(self, field: str) -> float | None:
        value = getattr(self._psutil("memory_info"), field, None)
        return None if value is None else value / 1e6

    def _psutil(self, method: str) -> Any:
        try:
            import psutil
        except ImportError:
            return None
        with suppress(OSError, psutil.Error):
            return getattr(psutil.Process(self._process), method)()
        return None
