"""Energy of an NVIDIA GPU: NVML's counter of mJ since the driver was loaded (Volta and newer).

It is of the whole board, whatever else runs there. It moves every 20 to 100 ms (PETSc,
PetscLogGpuEnergyMeter), so that it says nothing of shorter times.
"""

from __future__ import annotations

import os
import time
from typing import Any

LEAST_SECONDS = 0.2
"""Shortest time of which the counter is believed."""


class Nvml:
    """The counter of CUDA's device ``ordinal``, where the package nvidia-ml-py finds it."""

    def __init__(self, ordinal: int = 0) -> None:
        try:
            import pynvml
        except ImportError:
            self._library: Any = None
            return
        self._library = pynvml
        try:
            pynvml.nvmlInit()
            self._gpu = _gpu(pynvml, ordinal)
        except (pynvml.NVMLError, ValueError):
            self._library = None
        self._before = self._read()

    def joules(self) -> float | None:
        """Since the last call; None without the package, a driver or a counter, of less than
        ``LEAST_SECONDS``, and where several GPUs leave doubt which one CUDA means."""
        if self._library is None:
            return None
        (began, before), now = self._before, self._read()
        self._before = now
        if before is None or now[1] is None or now[0] - began < LEAST_SECONDS:
            return None
        joules = (now[1] - before) / 1e3
        return joules if joules > 0 else None

    def _read(self) -> tuple[float, int | None]:
        """The moment, and what the counter says then."""
        value = None
        if self._library is not None and self._gpu is not None:
            try:
                value = int(self._library.nvmlDeviceGetTotalEnergyConsumption(self._gpu))
            except self._library.NVMLError:
                pass
        return time.monotonic(), value


def _gpu(library: Any, ordinal: int) -> Any:
    """NVML's name for CUDA's device; None where it is in doubt.

    NVML counts all GPUs in the order of the bus. CUDA counts those that CUDA_VISIBLE_DEVICES lets
    it see, the fastest first unless CUDA_DEVICE_ORDER is PCI_BUS_ID.
    """
    visible = [v.strip() for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    name = visible[ordinal] if visible != [""] and ordinal < len(visible) else str(ordinal)
    if name.startswith("GPU-"):
        return library.nvmlDeviceGetHandleByUUID(name)
    if library.nvmlDeviceGetCount() == 1 and name.isdecimal():
        return library.nvmlDeviceGetHandleByIndex(0)
    if os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" and name.isdecimal():
        return library.nvmlDeviceGetHandleByIndex(int(name))
    return None
