"""Which jobs are measured in turn with each other, and which rows share a job.

Rows of one model and batch that fit beside each other share a heat, whole targets at a time, since
the rows of a target compete. A model in PyTorch runs the same whatever the target but for its
threads and quota, so that targets of one heat share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from odedeploy.profiling import machine, rows
from odedeploy.profiling.records import Baseline, Entry, Row
from odedeploy.profiling.rows import Job

MOST_WORKERS = 16
WORKER_MB = 400.0
"""Memory that a worker is expected to take, PyTorch included."""


@dataclass
class Schedule:
    """``jobs`` by their names, ``heats`` of names, and every row with the name of its job."""

    jobs: dict[str, Job] = field(default_factory=dict)
    heats: list[list[str]] = field(default_factory=list)
    artefacts: list[tuple[Row, str]] = field(default_factory=list)
    baselines: list[tuple[Row, str]] = field(default_factory=list)

    def add(self, job: Job, heat: list[str]) -> str:
        """The name under which the job is known."""
        name, count = job.name, 1
        while name in self.jobs:
            count += 1
            name = f"{job.name} #{count}"
        self.jobs[name] = job
        heat.append(name)
        return name


def arranged(entries: Sequence[Entry], baselines: Sequence[Baseline], cores: int) -> Schedule:
    """Everything that is to be measured, rows in the order of ``entries`` and of their targets."""
    schedule, limit = Schedule(), _limit()
    jobs = {index: rows.artefact(entry, cores) for index, entry in enumerate(entries)}
    named: dict[int, str] = {}
    for (model, batch), targets in _together(entries).items():
        own = [b for b in baselines if (b.model, b.batch) == (model, batch)]
        for packed in _packed(targets, len(own), limit):
            heat: list[str] = []
            for target in packed:
                named |= {i: schedule.add(jobs[i], heat) for i in targets[target]}
            for base in own:
                _beside(schedule, base, (entries[targets[t][0]] for t in packed), cores, heat)
            schedule.heats.append(heat)
    schedule.artefacts = [(jobs[i].row, named[i]) for i in jobs]
    return schedule


def _beside(
    schedule: Schedule, base: Baseline, first: Iterable[Entry], cores: int, heat: list[str]
) -> None:
    """A row of the baseline for every target of a heat, a job for every number of threads and
    quota."""
    known: dict[tuple[int | None, float | None], str] = {}
    for entry in first:
        job = rows.baseline(base, entry.target, cores)
        key = (job.row.threads, job.row.quota)
        if key not in known:
            known[key] = schedule.add(job, heat)
        schedule.baselines.append((job.row, known[key]))


def _together(entries: Sequence[Entry]) -> dict[tuple[str, int], dict[str, list[int]]]:
    """Places of the entries by model and batch, then by target."""
    found: dict[tuple[str, int], dict[str, list[int]]] = {}
    for index, entry in enumerate(entries):
        of_model = found.setdefault((entry.model, entry.target.batch), {})
        of_model.setdefault(entry.target.name, []).append(index)
    return found


def _packed(targets: dict[str, list[int]], baselines: int, limit: int) -> list[list[str]]:
    """Targets in order, as many in a heat as its workers allow, one at the least."""
    heats: list[list[str]] = [[]]
    size = 0
    for name, members in targets.items():
        count = len(members) + baselines
        if heats[-1] and size + count > limit:
            heats.append([])
            size = 0
        heats[-1].append(name)
        size += count
    return heats


def _limit() -> int:
    free = machine.available_memory_mb()
    return MOST_WORKERS if free is None else max(1, min(MOST_WORKERS, int(free / WORKER_MB)))
