"""What is measured (Entry, Baseline) and what came out (Row, Profile)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from odedeploy.errors import BadInput
from odedeploy.manifest import ErrorReport, Manifest
from odedeploy.targets import Target

Query = Mapping[str, np.ndarray]
"""Arrays of one inference by input name, in the order of the model's arguments."""

PERCENTILES = ("p50", "p90", "p99")


@dataclass(frozen=True)
class Entry:
    """One artefact on one target. ``queries`` are inferences at the target's batch, at least one;
    they are gone through in turn."""

    file: Path
    model: str
    target: Target
    tol: float | None
    format: str
    form: str
    precision: str
    solver: str
    nfe: int | None
    error: ErrorReport | None
    queries: Sequence[Query]
    promise: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: str, file: Path, manifest: Manifest, target: Target, queries: Sequence[Query]
    ) -> Entry:
        """The artefact that a manifest describes."""
        return cls(
            file=file,
            model=model,
            target=target,
            tol=manifest.tol,
            format=manifest.format,
            form=manifest.form,
            precision=manifest.precision,
            solver=str(manifest.plan["solver"]),
            nfe=int(manifest.plan["nfe"]),
            error=manifest.error,
            queries=queries,
            promise=manifest.promise,
            plan=manifest.plan,
        )


@dataclass(frozen=True)
class Baseline:
    """The model as its author runs it in PyTorch, adaptive solve included.

    ``address`` is ``package.module:callable`` or ``path/file.py:callable``. ``nfe`` counts the
    field evaluations of one solve of the queries. It is measured once for every target among the
    entries, with that target's threads.
    """

    model: str
    address: str
    solver: str
    queries: Sequence[Query]
    weights: Path | None = None
    nfe: int | None = None
    error: ErrorReport | None = None
    tol: float | None = None


@dataclass(frozen=True)
class Percentiles:
    """None where the sample is too small for that percentile."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None


@dataclass(frozen=True)
class Ratio:
    """Latency divided by that of the row named ``base``, paired round by round: the median of the
    rounds and its 95 % bootstrap interval."""

    base: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One measured artefact or baseline on one target; a failed one keeps its reason.

    ``error`` is the certified bound, or the largest error seen where none could be given.
    ``status`` is measured, unusable (target or provider), crashed (died, or ran out of time) or
    failed. ``latency_bound_ms`` are 99 % upper confidence bounds of the percentiles and
    ``latency_interval_ms`` is the 95 % interval of the median. ``cpu_seconds`` is processor time
    of one inference over all threads. ``peak_memory_mb`` (10⁶ bytes) is the most that the whole
    process held and ``base_memory_mb`` what it held before the artefact was loaded.
    ``throughput`` counts samples a second. ``spinning_ms`` is the processor time that
    idle threads of the runtime burn after the last inference. ``stable`` says whether the latency
    had settled when the warm-up ended. ``options`` are those of the runtime. ``energy_mj`` is what
    the processor's own counters say of one inference, None where there are none. ``estimated_ms``
    are estimates, not measurements, by device (``odedeploy.roofline``), and ``estimate_ratio`` is
    the one of this machine over what was measured, on one thread.
    """

    model: str
    tol: float | None
    target: str
    precision: str
    format: str
    form: str
    solver: str
    nfe: int | None
    error: float | None
    latency_ms: Percentiles
    throughput: float | None = None
    peak_memory_mb: float | None = None
    bytes: int | None = None
    pareto: bool = False
    status: str = "measured"
    reason: str = ""
    file: str = ""
    error_report: ErrorReport | None = None
    promise: str = ""
    plan: dict[str, Any] = field(default_factory=dict)
    batch: int = 1
    threads: int | None = None
    providers: tuple[str, ...] = ()
    latency_bound_ms: Percentiles = field(default_factory=Percentiles)
    latency_interval_ms: tuple[float, float] | None = None
    ratio: Ratio | None = None
    cpu_seconds: float | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    base_memory_mb: float | None = None
    samples: int = 0
    rounds: int = 0
    spinning_ms: float | None = None
    stable: bool | None = None
    options: dict[str, Any] = field(default_factory=dict)
    energy_mj: float | None = None
    estimated_ms: dict[str, float] = field(default_factory=dict)
    estimate_ratio: float | None = None

    @property
    def measured(self) -> bool:
        return self.status == "measured"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Row:
        """Raises KeyError or TypeError for anything that ``Profile.to_json`` did not write."""
        known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        known["latency_ms"] = Percentiles(**data["latency_ms"])
        if "latency_bound_ms" in known:
            known["latency_bound_ms"] = Percentiles(**data["latency_bound_ms"])
        for name, record in (("error_report", ErrorReport), ("ratio", Ratio)):
            if known.get(name) is not None:
                known[name] = record(**known[name])
        if known.get("latency_interval_ms") is not None:
            low, high = known["latency_interval_ms"]
            known["latency_interval_ms"] = (low, high)
        known["providers"] = tuple(known.get("providers", ()))
        return cls(**known)


@dataclass(frozen=True)
class Profile:
    """Every row of one sweep. ``asked`` holds the request: targets, tolerances, seconds, seed.
    ``warnings`` are sentences on what may have disturbed the measurement."""

    machine: dict[str, Any]
    asked: dict[str, Any]
    rows: tuple[Row, ...]
    baselines: tuple[Row, ...] = ()
    warnings: tuple[str, ...] = ()

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
            return cls(dict(data["machine"]), dict(data["asked"]), rows, baselines, warnings)
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
