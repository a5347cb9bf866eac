"""The sweep: fresh workers, opened one by one, then measured in interleaved rounds.

Jobs that are compared with each other run in one heat. Every round of a heat visits all its live
workers once, in a seeded order of its own, so that what slows the machine for a while slows all of
them, and their latencies can be compared round by round.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from odedeploy import cgroups
from odedeploy.errors import Crashed, FellShort, OdeDeployError, Unusable
from odedeploy.profiling import stats
from odedeploy.profiling.journal import Journal
from odedeploy.profiling.process import Worker

Progress = Callable[[float, str], None]
"""Called with the share that is done, 0 to 1, and what is being done."""

WARM_UP = {"runs": 10, "ms": 200, "window_ms": 40, "cap_ms": 3000}
LEAST_ROUNDS = stats.needed(0.5)
AIMED_ROUNDS = 20
ROUND_MS = (10.0, 500.0)
PERIODS = 5
"""Periods of a quota in one round, of which those without processor time are a part."""

OPENING = 2.0
"""Seconds that loading and warming up a worker is expected to take, for the progress alone."""

_FAILURES: dict[str, type[OdeDeployError]] = {
    cls.__name__: cls for cls in (Crashed, FellShort, Unusable)
}


@dataclass
class Trace:
    """What one worker gave. ``rounds`` holds latencies in ns, one array a round, by the number of
    the round in its heat, and ``windows`` when each began and ended, in Unix seconds. ``cpu_ns`` is
    processor time over all of them, ``spin_ms`` what idle threads burnt after each, ``throttled``
    counts periods without processor time, and ``energy`` holds joules, one a round, by what counted
    them. ``failure`` ends a trace."""

    facts: dict[str, Any] = field(default_factory=dict)
    rounds: dict[int, np.ndarray] = field(default_factory=dict)
    cpu_ns: int = 0
    spin_ms: list[float] = field(default_factory=list)
    peak_mb: float | None = None
    windows: dict[int, tuple[float, float]] = field(default_factory=dict)
    energy: dict[str, list[float]] = field(default_factory=dict)
    throttled: int | None = None
    failure: OdeDeployError | None = None

    def take(self, line: Mapping[str, Any]) -> None:
        """What a line of the journal says."""
        if line["kind"] == "opened":
            self.facts = {**line["facts"], **self.facts}
        elif line["kind"] == "failed":
            self.failure = _FAILURES.get(line["error"], OdeDeployError)(line["reason"])
        else:
            self.rounds[line["round"]] = np.array(line["ns"], dtype=np.int64)
            self.cpu_ns += line["cpu_ns"]
            self.spin_ms.append(line["spin_ms"])
            self.peak_mb = line["peak_mb"]
            if "began" in line:
                self.windows[line["round"]] = (line["began"], line["ended"])
            for name, joules in line.get("energy", {}).items():
                self.energy.setdefault(name, []).append(joules)
            if line.get("throttled") is not None:
                self.throttled = (self.throttled or 0) + line["throttled"]


class Sweep:
    """All heats of one measurement; what the journal holds already is not measured again.

    ``requests`` are those of ``open`` by the job's name, ``seconds`` the time of the measured
    rounds of all heats, ``timeout`` the seconds for each answer of a worker.
    """

    def __init__(
        self,
        requests: Mapping[str, Mapping[str, Any]],
        seconds: float,
        timeout: float,
        seed: int,
        progress: Progress,
        journal: Journal,
    ) -> None:
        self.requests, self.timeout, self.journal = requests, timeout, journal
        self.order, self.progress = np.random.default_rng(seed), progress
        self.seconds = seconds
        self.traces = {name: Trace() for name in requests}
        self.spent = {name: 0.0 for name in requests}
        self.done, self.all = 0.0, seconds + OPENING * len(requests)
        for line in journal.of("opened", "failed", "round"):
            if (name := line["job"]) in self.traces:
                self.traces[name].take(line)
                self.spent[name] = line.get("spent", self.spent[name])
        self.over = {name for line in journal.of("over") for name in line["jobs"]}

    def run(self, heats: Sequence[Sequence[str]]) -> dict[str, Trace]:
        """One trace per job, in heats one after another; a worker that fails costs only its own.

        Rounds of a heat go on for its share of ``seconds``, and until the median is supported.
        """
        for heat in heats:
            self._heat(heat, self.seconds * len(heat) / max(1, len(self.requests)))
        self.progress(1.0, "measured")
        return self.traces

    def _heat(self, heat: Sequence[str], seconds: float) -> None:
        alive = self._alive(heat)
        spent = max((self.spent[name] for name in heat), default=0.0)
        count = max((max(self.traces[n].rounds, default=-1) + 1 for n in alive), default=0)
        if self.over.issuperset(alive):
            self._tell(OPENING * len(heat) + seconds, "measured before")
            return
        with contextlib.ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for name in alive:
                self._tell(0.0, f"loading {self.requests[name]['label']}")
                self._open(name, workers, stack)
                self._tell(OPENING, "")
            began, before = time.monotonic(), spent
            alive = self._alive(heat)
            ms = 1e3 * seconds / (AIMED_ROUNDS * max(1, len(alive)))
            ms = min(max(ms, ROUND_MS[0]), ROUND_MS[1])
            while alive and not _finished(spent, seconds, count):
                last = spent
                for place in self.order.permutation(len(alive)):
                    spent = before + time.monotonic() - began
                    self._round(alive[place], workers[alive[place]], count, ms, spent)
                spent = before + time.monotonic() - began
                count, alive = count + 1, self._alive(heat)
                self._tell(min(spent, seconds) - min(last, seconds), f"round {count}")
        self.journal.add("over", jobs=list(heat))

    def _tell(self, more: float, text: str) -> None:
        self.done += more
        if text:
            self.progress(min(1.0, self.done / self.all), text)

    def _alive(self, heat: Sequence[str]) -> list[str]:
        return [name for name in heat if self.traces[name].failure is None]

    def _note(self, kind: str, name: str, **facts: Any) -> None:
        self.journal.add(kind, job=name, **facts)
        self.traces[name].take({"kind": kind, **facts})

    def _open(self, name: str, workers: dict[str, Worker], stack: contextlib.ExitStack) -> None:
        quota = self.requests[name].get("quota")
        least = 0.0 if quota is None else PERIODS * cgroups.PERIOD_MS
        asked = {**WARM_UP, "window_ms": max(WARM_UP["window_ms"], least)}
        try:
            workers[name] = worker = stack.enter_context(Worker(quota))
            facts = worker.ask("open", self.timeout, **self.requests[name])
            facts |= worker.ask("warm", self.timeout, **asked)
        except OdeDeployError as error:
            self._fail(name, error)
        else:
            self._note("opened", name, facts=facts)

    def _round(self, name: str, worker: Worker, count: int, ms: float, spent: float) -> None:
        lead = 0.0 if self.requests[name].get("quota") is None else cgroups.PERIOD_MS
        ms = max(ms, PERIODS * lead)
        try:
            answer = worker.ask("round", self.timeout, ms=ms, lead_ms=lead)
        except OdeDeployError as error:
            self._fail(name, error)
        else:
            self._note("round", name, round=count, spent=round(spent, 3), **answer)

    def _fail(self, name: str, error: OdeDeployError) -> None:
        self._note("failed", name, error=type(error).__name__, reason=str(error))


def _finished(spent: float, seconds: float, count: int) -> bool:
    return spent >= seconds and count >= LEAST_ROUNDS
