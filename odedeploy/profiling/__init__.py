"""Profiling: what each digit of accuracy costs, measured in fresh worker processes.

``profile`` measures artefacts and the models in PyTorch as baselines, ``write`` puts the result
into a folder as JSON, CSV, PNG, SVG and HTML.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from odedeploy import files
from odedeploy.errors import BadInput, Unusable
from odedeploy.profiling import heats, machine, pareto, queries, rows
from odedeploy.profiling import meter as meters
from odedeploy.profiling.journal import Journal
from odedeploy.profiling.measure import Progress, Sweep, Trace
from odedeploy.profiling.records import Baseline, Entry, Percentiles, Query, Ratio, Row
from odedeploy.profiling.result import Profile
from odedeploy.targets import usable

FILES = ("profile.json", "profile.csv", "pareto.png", "pareto.svg", "report.html")

__all__ = [
    "FILES",
    "Baseline",
    "Entry",
    "Journal",
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
    baselines: Sequence[Baseline] = (),
    seconds: float = 40.0,
    progress: Progress = lambda share, text: None,
    *,
    timeout: float = 120.0,
    seed: int = 0,
    journal: Journal | None = None,
    meter: Path | None = None,
) -> Profile:
    """Measure every entry, and every baseline beside the entries of its model and batch.

    ``seconds`` is the time for the measured rounds, shared by all; loading and warming up come on
    top, a second or two each. ``timeout`` limits, in seconds, each answer of a worker. A worker
    that crashes, hangs or gives values that are not finite costs its own row only. What
    ``journal`` holds of an earlier run of the same request is not measured again. ``meter`` is the
    CSV of a power meter of this machine (``odedeploy.profiling.meter``).

    Raises BadInput for no entries, an entry without queries, ``seconds`` ≤ 0 or a ``meter`` that
    is none, and Unusable under an emulator.
    """
    if not entries:
        raise BadInput("There is nothing to profile; give at least one artefact and target.")
    if not seconds > 0:
        raise BadInput(f"The seconds to measure must be positive, got {seconds}; try 40.")
    if not all([*(e.queries for e in entries), *(b.queries for b in baselines)]):
        raise BadInput("An artefact or baseline has no inputs to run; give at least one query.")
    machine.refuse_emulation()
    if meter is not None:
        meters.read(meter)
    schedule = heats.arranged(entries, baselines, machine.available_cores())
    described, ticks = machine.fingerprint(), machine.processor_times()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="odedeploy-") as scratch:
        traces = _measured(
            schedule, Path(scratch), seconds, timeout, seed, progress, journal or Journal()
        )
    described["load_average_after"] = machine.load_average()
    described["stolen_share"] = machine.stolen(ticks, machine.processor_times())
    known = [*schedule.artefacts, *schedule.baselines]
    windows = [window for trace in traces.values() for window in trace.windows.values()]
    energy, problems = _metered(meter, max((ended for _, ended in windows), default=None))
    own = [traces[name] for _, name in known]
    finished = rows.finish([row for row, _ in known], own, seed, energy)
    asked = {
        "targets": list(dict.fromkeys(entry.target.name for entry in entries)),
        "tolerances": sorted({e.tol for e in entries if e.tol is not None}, reverse=True),
        "seconds": seconds,
        "seconds_taken": round(time.monotonic() - began, 1),
        "seed": seed,
    }
    artefacts, others = finished[: len(entries)], finished[len(entries) :]
    warnings = (*rows.disturbances(finished), *problems)
    return Profile(described, asked, pareto.mark(artefacts), tuple(others), warnings)


def write(result: Profile, folder: Path) -> tuple[Path, ...]:
    """The files called ``FILES`` into ``folder``, all or none; returns their paths.

    Every one is complete under a temporary name in the folder before the first is renamed.
    Raises BadInput when the folder cannot be made or written.
    """
    from odedeploy.profiling.plot import png, standalone
    from odedeploy.profiling.report import html

    contents = dict(zip(FILES, (
        (json.dumps(result.to_json(), indent=1) + "\n").encode(),
        result.to_csv().encode(),
        png(result),
        standalone(result).encode(),
        html(result).encode(),
    ), strict=True))  # fmt: skip
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


def _metered(path: Path | None, ended: float | None) -> tuple[meters.Meter | None, tuple[str, ...]]:
    """The meter with what it wrote while the sweep ran; a file that went bad meanwhile, as a
    sentence, does not cost the sweep."""
    try:
        return (None if path is None else meters.covering(path, ended)), ()
    except BadInput as error:
        return None, (str(error),)


def _measured(
    schedule: heats.Schedule,
    scratch: Path,
    seconds: float,
    timeout: float,
    seed: int,
    progress: Progress,
    journal: Journal,
) -> dict[str, Trace]:
    """One trace per job; jobs whose target is not usable here get a failed trace at once."""
    failed: dict[str, Trace] = {}
    requests: dict[str, dict[str, Any]] = {}
    for index, (name, job) in enumerate(schedule.jobs.items()):
        problem = job.problem or usable(job.target)
        if problem:
            failed[name] = Trace(failure=Unusable(problem))
        else:
            inferences = queries.save(job.queries, scratch / f"{index}.npz")
            requests[name] = {**job.request, "queries": str(inferences)}
    sweep = Sweep(requests, seconds, timeout, seed, progress, journal)
    return failed | sweep.run([[n for n in heat if n in requests] for heat in schedule.heats])
