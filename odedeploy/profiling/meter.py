"""Energy from an external meter: its CSV of times and watts, which may still be growing.

The first line names the columns, among them ``time``, in Unix seconds or as ISO 8601 (in this
machine's time zone unless it tells its own), and ``watts``. Between two samples the power is taken
as linear.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from odedeploy.errors import BadInput
from odedeploy.profiling.energy import METER
from odedeploy.profiling.records import Row

GAP = 2.0
"""Longest time between two samples, in seconds, over which the power is believed to be linear."""

HERE = ""
"""Name of this machine beside those of devices elsewhere."""

COLUMNS = ("time", "watts")


class Meter:
    """Samples of the power: ``times`` in Unix seconds, never falling, and ``watts``, each of shape
    (samples,)."""

    def __init__(self, times: Sequence[float], watts: Sequence[float]) -> None:
        self._times, self._watts = np.array(times, float), np.array(watts, float)

    def joules(self, began: float, ended: float) -> float | None:
        """From ``began`` to ``ended``, in Unix seconds, by the trapezoidal rule; None unless
        samples lie on both sides and none is further than ``GAP`` from the next."""
        first = int(np.searchsorted(self._times, began, side="right")) - 1
        last = max(first, int(np.searchsorted(self._times, ended, side="left")))
        if first < 0 or last >= len(self._times):
            return None
        times, watts = self._times[first : last + 1] - began, self._watts[first : last + 1]
        if np.diff(times).max(initial=0.0) > GAP:
            return None
        ends = np.array([0.0, ended - began])
        inside = (times > ends[0]) & (times < ends[1])
        left, right = np.interp(ends, times, watts)
        x = np.concatenate([ends[:1], times[inside], ends[1:]])
        y = np.concatenate([[left], watts[inside], [right]])
        return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))

    @property
    def last(self) -> float:
        """Time of the last sample, −∞ before the first."""
        return float(self._times[-1]) if len(self._times) else -math.inf


def named(texts: Sequence[str]) -> dict[str, Path]:
    """Files by device from ``[DEVICE=]FILE`` each, ``HERE`` for this machine.

    Raises BadInput for a second file of one device.
    """
    found: dict[str, Path] = {}
    for text in texts:
        device, mark, file = text.partition("=")
        if not mark or Path(text).is_file():
            device, file = HERE, text
        if device in found:
            known = f"{found[device]} and {file}"
            raise BadInput(f"{device or 'This machine'} has two meters, {known}; give one.")
        found[device] = Path(file)
    return found


def read(path: Path) -> Meter:
    """What the file holds by now; a last line without its end is still being written.

    Raises BadInput for a file that cannot be read or is no such CSV, naming the line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The meter's file {path} cannot be read ({error}); check it.") from error
    lines = list(enumerate(text[: text.rfind("\n") + 1].splitlines(), 1))
    header = [name.strip().lower() for name in _cells(lines.pop(0)[1])] if lines else []
    if not set(COLUMNS) <= set(header):
        raise BadInput(
            f"{path} begins with {', '.join(header) or 'nothing'}; its first line must name the "
            f"columns {' and '.join(COLUMNS)}."
        )
    times: list[float] = []
    watts: list[float] = []
    for number, line in lines:
        if not line.strip():
            continue
        try:
            sample = dict(zip(header, _cells(line), strict=True))
            moment, power = _moment(sample["time"].strip()), float(sample["watts"])
            if not math.isfinite(moment) or not math.isfinite(power):
                raise ValueError("not a finite number")
            if times and moment < times[-1]:
                raise ValueError("before the line above it")
        except (ValueError, OverflowError, csv.Error) as error:
            raise BadInput(
                f"{path}, line {number}: {line[:80]!r} is no time and watts ({error}); correct or "
                "remove it."
            ) from error
        times.append(moment)
        watts.append(power)
    return Meter(times, watts)


def covering(path: Path, ended: float | None) -> Meter:
    """``read``, once the file has a sample after ``ended``, for which it waits as long as one may
    still come."""
    meter = read(path)
    while ended is not None and meter.last < ended and time.time() < ended + GAP:
        time.sleep(GAP / 10)
        meter = read(path)
    return meter


def lacking(rows: Sequence[Row], meters: Mapping[str, Path]) -> tuple[str, ...]:
    """A sentence for every meter that does not cover each round of all rows of its device."""
    found = []
    for device, path in meters.items():
        own = [row for row in rows if row.device == device and row.measured]
        missed = sum(METER not in row.energies_mj for row in own)
        if missed or not own:
            found.append(
                f"The meter's {path.name} covers {len(own) - missed} of {len(own)} rows; it needs "
                f"samples before, after and every {GAP:g} s of all rounds, by the same clock."
            )
    return tuple(found)


def _cells(line: str) -> list[str]:
    return next(csv.reader([line]), [])


def _moment(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text).timestamp()
