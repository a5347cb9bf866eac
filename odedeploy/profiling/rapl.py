"""Energy of the processor packages: RAPL, by way of Linux's powercap.

A counter is of a whole package, whatever else it does meanwhile, so what is read is only as good as
the machine is idle. Reading takes root's rights on most systems.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class Rapl:
    """The packages' energy counters."""

    def __init__(self, folder: Path = POWERCAP) -> None:
        # Zones such as intel-rapl:0:1 are parts of the package intel-rapl:0.
        zones = [zone for zone in folder.glob("intel-rapl:*") if zone.name.count(":") == 1]
        self._zones = [zone for zone in zones if _number(zone / "energy_uj") is not None]
        self._before = self._read()

    def joules(self) -> float | None:
        """Since the last call; None where there are no counters, or one cannot be read."""
        now = self._read()
        if not self._zones or now.keys() != self._before.keys():
            return None
        total = sum(
            (value - self._before[zone]) % _range(zone) for zone, value in now.items()
        )
        self._before = now
        return total / 1e6

    def _read(self) -> Mapping[Path, int]:
        values = {zone: _number(zone / "energy_uj") for zone in self._zones}
        return {zone: value for zone, value in values.items() if value is not None}


def _range(zone: Path) -> int:
    """Where the counter starts again at nothing."""
    return (_number(zone / "max_energy_range_uj") or 2**63) + 1


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
