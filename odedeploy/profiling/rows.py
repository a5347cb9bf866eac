"""From what is asked to a worker's request, and from its trace to a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from odedeploy import roofline
from odedeploy.errors import Crashed, OdeDeployError, Unusable
from odedeploy.manifest import ErrorReport
from odedeploy.profiling import energy, stats
from odedeploy.profiling.measure import Trace
from odedeploy.profiling.meter import Meter
from odedeploy.profiling.records import Baseline, Entry, Percentiles, Query, Ratio, Row
from odedeploy.targets import Target

BUSY = 0.9
"""Share of a core below which a thread that only computes was kept waiting."""


@dataclass(frozen=True)
class Job:
    """A row still without measurements and the worker's request that fills it; ``problem`` says
    why it cannot run."""

    target: Target
    row: Row
    request: dict[str, Any]
    queries: Sequence[Query]
    problem: str | None = None

    @property
    def name(self) -> str:
        """What tells it from the other jobs of a sweep."""
        row = self.row
        if row.format == "pytorch":
            quota = "" if row.quota is None else f" with {row.quota:g} CPUs"
            return f"{row.model} in PyTorch, {row.threads} threads{quota}, batch {row.batch}"
        return f"{row.model}: {row.file} on {row.target}, batch {row.batch}"


def artefact(entry: Entry, cores: int) -> Job:
    """The job of one artefact on one target."""
    target, threads = entry.target, entry.target.threads or cores
    row = Row(
        model=entry.model,
        tol=entry.tol,
        target=target.name,
        precision=entry.precision,
        format=entry.format,
        form=entry.form,
        solver=entry.solver,
        nfe=entry.nfe,
        error=certified(entry.error),
        latency_ms=Percentiles(),
        bytes=entry.file.stat().st_size if entry.file.is_file() else None,
        file=entry.file.name,
        error_report=entry.error,
        promise=entry.promise,
        plan=dict(entry.plan),
        batch=target.batch,
        threads=threads,
        providers=target.providers,
        command=entry.command,
        estimated_ms=_estimated(entry),
        quota=target.quota,
    )
    problem = None
    if entry.format != target.format:
        problem = (
            f"Target {target.name!r} runs {target.format} files, and {entry.file.name} is "
            f"{entry.format}; export it as {target.format}."
        )
    request = {
        "label": f"{entry.file.name} on {target.name}",
        "runtime": target.runtime,
        "format": target.format,
        "path": str(entry.file.resolve()),
        "threads": threads,
        "options": target.opening,
        "quota": target.quota,
    }
    return Job(target, row, request, entry.queries, problem)


def baseline(asked: Baseline, target: Target, cores: int) -> Job:
    """The job of the PyTorch solve with the threads of a target."""
    threads = target.threads or cores
    row = Row(
        model=asked.model,
        tol=asked.tol,
        target=target.name,
        precision="fp32",
        format="pytorch",
        form="adaptive",
        solver=asked.solver,
        nfe=asked.nfe,
        error=certified(asked.error),
        latency_ms=Percentiles(),
        error_report=asked.error,
        batch=asked.batch,
        threads=threads,
        quota=target.quota,
    )
    request = {
        "label": f"{asked.model} in PyTorch, {threads} threads",
        "runtime": "pytorch",
        "path": asked.address,
        "weights": None if asked.weights is None else str(asked.weights.resolve()),
        "threads": threads,
        "quota": target.quota,
    }
    return Job(target, row, request, asked.queries)


def finish(
    rows: Sequence[Row], traces: Sequence[Trace], seed: int, meter: Meter | None = None
) -> list[Row]:
    """The rows with their measurements, each compared with the base among its rivals: the baseline
    where it was measured, else the first row that was. ``meter`` has counted the energy of their
    machine."""
    filled = [_fill(row, trace, seed, meter) for row, trace in zip(rows, traces, strict=True)]
    bases: dict[tuple[str, str, str, int], int] = {}
    for index, row in enumerate(filled):
        if row.measured and (row.format == "pytorch" or row.rivals not in bases):
            bases[row.rivals] = index
    for index, row in enumerate(filled):
        base = bases.get(row.rivals)
        if row.measured and base is not None and base != index:
            name = filled[base].file or "PyTorch"
            ratio = _ratio(name, traces[index], traces[base], seed)
            filled[index] = replace(row, ratio=ratio)
    return filled


def disturbances(rows: Sequence[Row]) -> tuple[str, ...]:
    """What speaks against the latencies: inferences on one processor thread that had to wait for
    the processor, told by their processor time falling behind the clock."""
    shares = [
        row.cpu_seconds * row.throughput / row.batch / min(1.0, row.quota or 1.0)
        for row in rows
        if row.measured and row.threads == 1 and row.cpu_seconds and row.throughput
        if row.format == "pytorch" or row.providers == ("CPUExecutionProvider",)
    ]
    if not shares or min(shares) > BUSY:
        return ()
    return (
        "The machine was busy with other work: an inference on one thread got "
        f"{100 * min(shares):.0f} % of its core; measure again when it is quiet.",
    )


def _fill(row: Row, trace: Trace, seed: int, meter: Meter | None) -> Row:
    facts: dict[str, Any] = {
        "load_ms": trace.facts.get("load_ms"),
        "first_ms": trace.facts.get("first_ms"),
        "base_memory_mb": trace.facts.get("base_mb"),
        "stable": trace.facts.get("stable"),
        "options": dict(trace.facts.get("options", {})),
        "providers": tuple(trace.facts.get("providers", row.providers)),
    }
    if trace.failure is not None:
        status, reason = _status(trace.failure), str(trace.failure)
        return replace(row, status=status, reason=reason, **facts)
    rounds = list(trace.rounds.values())
    samples = np.concatenate(rounds)
    medians = stats.round_medians(rounds)
    seconds = np.array([batch.mean() / 1e9 for batch in rounds])
    levels = (0.5, 0.9, 0.99)
    p50, p90, p99 = (_ms(stats.percentile(samples, p)) for p in levels)
    bounds = Percentiles(*(_ms(stats.upper_bound(samples, p)) for p in levels))
    low, high = stats.bootstrap(medians / 1e6, seed)
    energies = {name: 1e3 * j / len(samples) for name, j in _joules(trace, meter).items()}
    return replace(
        row,
        latency_ms=Percentiles(p50, p90, p99),
        latency_bound_ms=bounds,
        latency_interval_ms=(min(low, p50 or low), max(high, p50 or high)),
        throughput=float(row.batch / np.median(seconds)),
        cpu_seconds=trace.cpu_ns / len(samples) / 1e9,
        peak_memory_mb=trace.peak_mb,
        energy_mj=energy.total(energies),
        energies_mj=energies,
        throttled=trace.throttled,
        began=min((began for began, _ in trace.windows.values()), default=None),
        ended=max((ended for _, ended in trace.windows.values()), default=None),
        estimate_ratio=_compared(row, p50),
        spinning_ms=float(np.median(trace.spin_ms)),
        samples=len(samples),
        rounds=len(rounds),
        **facts,
    )


def _joules(trace: Trace, meter: Meter | None) -> dict[str, float]:
    """Of all rounds, by what counted every one of them."""
    found = {
        name: sum(joules) for name, joules in trace.energy.items()
        if len(joules) == len(trace.rounds)
    }  # fmt: skip
    if meter is not None and len(trace.windows) == len(trace.rounds):
        metered = [meter.joules(began, ended) for began, ended in trace.windows.values()]
        counted = [joules for joules in metered if joules is not None]
        if len(counted) == len(metered):
            found[energy.METER] = sum(counted)
    return found


def _estimated(entry: Entry) -> dict[str, float]:
    """Milliseconds by device, of a plan whose manifest says what it does."""
    if entry.target.batch != 1 or "work" not in entry.plan:
        return {}
    return roofline.estimates(roofline.Work.from_json(entry.plan["work"]))


def _compared(row: Row, latency: float | None) -> float | None:
    """What the estimate of this machine, of one core, is of what was measured on one."""
    here = row.estimated_ms.get(roofline.HERE)
    alone = row.threads == 1 and row.quota is None
    return here / latency if here and latency and alone else None


def _ratio(name: str, trace: Trace, base: Trace, seed: int) -> Ratio | None:
    """Of the rounds that both took part in; None where there was none."""
    shared = sorted(trace.rounds.keys() & base.rounds.keys())
    if not shared:
        return None
    ratios = stats.round_medians([trace.rounds[k] for k in shared])
    ratios = ratios / stats.round_medians([base.rounds[k] for k in shared])
    return Ratio(name, float(np.median(ratios)), *stats.bootstrap(ratios, seed))


def _status(failure: OdeDeployError) -> str:
    if isinstance(failure, Unusable):
        return "unusable"
    return "crashed" if isinstance(failure, Crashed) else "failed"


def certified(report: ErrorReport | None) -> float | None:
    """The error that a row shows: the certified bound, or the largest seen."""
    if report is None:
        return None
    error = report.max if report.bound is None else report.bound
    return error if math.isfinite(error) else None


def _ms(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e6
