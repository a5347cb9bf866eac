"""What is measured (Entry, Baseline) and what came out of each (Row)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

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
    command: str = ""

    @classmethod
    def of(
        cls,
        model: str,
        file: Path,
        manifest: Manifest,
        target: Target,
        queries: Sequence[Query],
        command: str = "",
    ) -> Entry:
        """The artefact that a manifest describes, which ``command`` makes again."""
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
            command=command,
        )


@dataclass(frozen=True)
class Baseline:
    """The model as its author runs it in PyTorch, adaptive solve included.

    ``address`` is ``package.module:callable`` or ``path/file.py:callable``. ``nfe`` counts the
    field evaluations of one solve of the queries, each of ``batch`` samples. It stands beside every
    target on which an entry of its model and batch is measured, run with that target's threads.
    """

    model: str
    address: str
    solver: str
    queries: Sequence[Query]
    weights: Path | None = None
    nfe: int | None = None
    error: ErrorReport | None = None
    tol: float | None = None
    batch: int = 1


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
    had settled when the warm-up ended. ``device`` names the machine that was measured, nothing
    for this one. ``beaten_by`` names the row that keeps this one off the Pareto front, and
    ``pareto_sure`` says that the intervals leave no doubt about the mark. ``command`` makes the
    artefact again. ``options`` are those of the runtime. ``energy_mj`` is the energy of one
    inference, None where nothing counts it, and ``energies_mj`` what each counter says of it
    (``odedeploy.profiling.energy``). ``estimated_ms``
    are estimates, not measurements, by device (``odedeploy.roofline``), and ``estimate_ratio`` is
    the one of this machine over what was measured, on one thread. ``quota`` is the processor time
    that the process could use in a second, in CPUs, None without a limit, and ``throttled`` counts
    the periods (``odedeploy.cgroups``) of its rounds in which that ran out, None where nothing
    counts them. ``began`` and ``ended`` are those of the first and the last round, in Unix seconds.
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
    device: str = ""
    beaten_by: str = ""
    pareto_sure: bool | None = None
    command: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    energy_mj: float | None = None
    estimated_ms: dict[str, float] = field(default_factory=dict)
    estimate_ratio: float | None = None
    energies_mj: dict[str, float] = field(default_factory=dict)
    quota: float | None = None
    throttled: int | None = None
    began: float | None = None
    ended: float | None = None

    @property
    def measured(self) -> bool:
        return self.status == "measured"

    @property
    def solves(self) -> bool:
        """Whether there is a solve to approximate; a network without one has an error of round-off
        only, which says nothing beside others."""
        return self.solver != "none"

    @property
    def rivals(self) -> tuple[str, str, str, int]:
        """What the rows share that compete on one Pareto front."""
        return self.device, self.model, self.target, self.batch

    @property
    def label(self) -> str:
        """What stands beside its point: evaluations, solver, and the arithmetic below fp32."""
        parts = [str(self.nfe)] if self.nfe else []
        parts += [self.solver] + ([self.precision] if self.precision != "fp32" else [])
        return " · ".join(parts)

    @property
    def name(self) -> str:
        """The row in a few words."""
        what = self.file or f"{self.model} in PyTorch"
        batch = "" if self.batch == 1 else f", batch {self.batch}"
        return f"{what} on {place(self)}{batch}"

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


def place(row: Row) -> str:
    """Where a row was measured: its target, on which device."""
    return f"{row.target} of {row.device}" if row.device else row.target


def model_of(file: Path, manifest: Manifest) -> str:
    """The model of a file, as far as the name tells that a sweep gave it: what comes before its
    tolerance. Files of one model compete."""
    before, mark, _ = file.stem.rpartition(f"-{manifest.tol:g}")
    return before if mark and before else file.stem


def short(model: str) -> str:
    """A model's name without the folder of its file."""
    return model.rsplit("/", 1)[-1]
