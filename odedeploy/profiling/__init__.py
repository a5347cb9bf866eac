"""Profiling: what each digit of accuracy costs, measured in fresh worker processes.

``profile`` measures artefacts and the adaptive PyTorch baseline, ``write`` puts the result into a
folder as ``profile.json``, ``profile.csv``, ``pareto.png`` and ``report.html``.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from odedeploy import files
from odedeploy.errors import BadInput, Unusable
from odedeploy.profiling import machine, pareto, rows
from odedeploy.profiling.measure import Progress, Trace, sweep
from odedeploy.profiling.records import (
    Baseline,
    Entry,
    Percentiles,
    Profile,
    Query,
    Ratio,
    Row,
)
from odedeploy.targets import usable

__all__ = [
    "Baseline",
    "Entry",
    "Percentiles",
    "Profile",
    "Progress",
    "Query",
    "Ratio",
    "Row",
    "profile",
    "write",
]


def profile(
    entries: Sequence[Entry],
    baseline: Baseline | None = None,
    seconds: float = 40.0,
    progress: Progress = lambda share, text: None,
    *,
    timeout: float = 120.0,
    seed: int = 0,
) -> Profile:
    """Measure every entry, and the baseline once for each target among them.

    ``seconds`` is the time for the measured rounds, shared by all; loading and warming up come on
    top, a second or two each. ``timeout`` limits, in seconds, each answer of a worker. A worker
    that crashes, hangs or gives values that are not finite costs its own row only.

    Raises BadInput for no entries, an entry without queries, or ``seconds`` ≤ 0.
    """
    if not entries:
        raise BadInput("There is nothing to profile; give at least one artefact and target.")
    if not seconds > 0:
        raise BadInput(f"The seconds to measure must be positive, got {seconds}; try 40.")
    if not all(entry.queries for entry in entries) or (baseline and not baseline.queries):
        raise BadInput("An artefact or baseline has no inputs to run; give at least one query.")
    targets = list(dict.fromkeys(entry.target for entry in entries))
    jobs = [rows.artefact(entry, machine.available_cores()) for entry in entries]
    if baseline is not None:
        jobs += [rows.baseline(baseline, on, machine.available_cores()) for on in targets]
    described = machine.fingerprint()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="odedeploy-") as scratch:
        traces = _measured(jobs, Path(scratch), seconds, timeout, seed, progress)
    described["load_average_after"] = machine.load_average()
    finished = rows.finish([job.row for job in jobs], traces, seed)
    asked = {
        "targets": [target.name for target in targets],
        "tolerances": sorted({e.tol for e in entries if e.tol is not None}, reverse=True),
        "seconds": seconds,
        "seconds_taken": round(time.monotonic() - began, 1),
        "seed": seed,
    }
    artefacts, baselines = finished[: len(entries)], finished[len(entries) :]
    return Profile(
        described, asked, pareto.mark(artefacts), tuple(baselines), rows.disturbances(finished)
    )


def write(result: Profile, folder: Path) -> tuple[Path, ...]:
    """The four files into ``folder``, all or none; returns their paths.

    Every one is complete under a temporary name in the folder before the first is renamed.
    Raises BadInput when the folder cannot be made or written.
    """
    from odedeploy.profiling.plot import png
    from odedeploy.profiling.report import html

    contents = {
        "profile.json": (json.dumps(result.to_json(), indent=1) + "\n").encode(),
        "profile.csv": result.to_csv().encode(),
        "pareto.png": png(result),
        "report.html": html(result).encode(),
    }
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"The folder {folder} cannot be made ({error.strerror}); choose another."
        ) from error
    try:
        with ExitStack() as stack:
            written = [stack.enter_context(files.replacing(folder / name)) for name in contents]
            for file, content in zip(written, contents.values(), strict=True):
                file.write(content)
                file.flush()
    except BaseException:
        if new:
            with suppress(OSError):
                folder.rmdir()
        raise
    return tuple(folder / name for name in contents)


def _measured(
    jobs: Sequence[rows.Job],
    scratch: Path,
    seconds: float,
    timeout: float,
    seed: int,
    progress: Progress,
) -> list[Trace]:
    """One trace per job; jobs whose target is not usable here get a failed trace at once."""
    traces: dict[int, Trace] = {}
    requests: dict[int, dict[str, Any]] = {}
    for index, job in enumerate(jobs):
        problem = job.problem or usable(job.target)
        if problem:
            traces[index] = Trace(failure=Unusable(problem))
        else:
            queries = _save(job.queries, scratch / f"{index}.npz")
            requests[index] = {**job.request, "queries": str(queries)}
    measured = sweep(list(requests.values()), seconds, timeout, seed, progress)
    traces |= dict(zip(requests, measured, strict=True))
    return [traces[index] for index in range(len(jobs))]


def _save(queries: Sequence[Query], file: Path) -> Path:
    """An .npz file as the worker reads it."""
    arrays: dict[str, Any] = {
        f"{index} {name}": array
        for index, query in enumerate(queries)
        for name, array in query.items()
    }
    np.savez(file, **arrays)
    return file
