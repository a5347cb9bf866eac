"""A whole profile, as JSON, as CSV and back."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from odedeploy.errors import BadInput
from odedeploy.profiling.records import Row


@dataclass(frozen=True)
class Profile:
    """Every row of one sweep. ``asked`` holds the request: targets, tolerances, seconds, seed.
    ``warnings`` are sentences on what may have disturbed the measurement, and ``devices`` the
    machines elsewhere whose rows were merged, by the name that stands in ``Row.device``."""

    machine: dict[str, Any]
    asked: dict[str, Any]
    rows: tuple[Row, ...]
    baselines: tuple[Row, ...] = ()
    warnings: tuple[str, ...] = ()
    devices: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ``from_json`` gives the same profile back. What is not a finite
        number becomes None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Profile:
        """Raises BadInput for anything that ``to_json`` did not write."""
        try:
            rows, baselines = (
                tuple(Row.from_json(row) for row in data[side]) for side in ("rows", "baselines")
            )
            warnings = tuple(map(str, data.get("warnings", ())))
            machine, asked = dict(data["machine"]), dict(data["asked"])
            devices = dict(data.get("devices", {}))
            return cls(machine, asked, rows, baselines, warnings, devices)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"This is not a profile: {error} is missing or malformed.") from error

    def to_csv(self) -> str:
        """One line a row, baselines last; nested values become columns such as
        ``latency_ms_p50``. None is an empty cell; plans are left to the JSON."""
        lines = [
            {"kind": kind, **_flat(row)}
            for kind, rows in (("artefact", self.rows), ("baseline", self.baselines))
            for row in rows
        ]
        columns = list(dict.fromkeys(name for line in lines for name in line))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return text.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in asdict(row).items():
        if name == "plan":
            continue
        if name == "latency_interval_ms":
            low, high = value or (None, None)
            value = {"low": low, "high": high}
        if isinstance(value, dict):
            flat |= {f"{name}_{key}": item for key, item in value.items()}
        elif name not in ("ratio", "error_report") or value is not None:
            flat[name] = " ".join(value) if isinstance(value, tuple) else value
    return flat
