"""A process that measures one artefact: ``python -m odedeploy.profiling.worker [PARENT]``.

It reads one JSON request a line from stdin and answers each with one JSON line on stdout:

* ``open``: load the artefact, run it once → load_ms, first_ms, base_mb and the opener's facts
* ``warm``: run until the latency is stable → runs, stable
* ``round``: run for some milliseconds → ns (one latency a run), began and ended (Unix seconds),
  cpu_ns, energy (joules by counter) and throttled (periods without processor time), all of these
  runs, peak_mb, and spin_ms, the processor time that idle threads burn before the process comes to
  rest

A runtime in a process of its own times its runs there, and its time and memory are what counts.

What fails is answered by ``{"error": sentence, "kind": class name}``. The process ends with its
stdin. Only NumPy and the measured runtime are loaded. What libraries print goes to stderr.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from odedeploy import cgroups
from odedeploy.errors import FellShort
from odedeploy.profiling import energy, openers, queries
from odedeploy.profiling.usage import Usage

STABLE = 0.05
"""Largest coefficient of variation of the last windows' medians that counts as stable."""

REFILLED_MS = 50.0
"""Latency from which the cost of cold caches is lost in the run itself."""

PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux."""


class Session:
    """The state between requests: what runs the artefact, its queries and its last outputs."""

    queries: list[dict[str, np.ndarray]]
    outputs: Sequence[np.ndarray]
    timer: openers.Timer
    usage: Usage
    refill: bool = True

    def open(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Load the artefact and the queries, and run the first of them."""
        self.energy, self.limits = energy.counters(request), cgroups.statistics()
        self.queries = queries.load(request["queries"])
        start = openers.find(request["runtime"])(request)
        base = Usage().resident_mb()
        begin = time.perf_counter_ns()
        loaded = start()
        load = time.perf_counter_ns() - begin
        self.timer = loaded.timer or Here(loaded.run)
        self.usage = Usage(self.timer.process)
        first = self._run()
        _check(self.outputs)
        return {"load_ms": load / 1e6, "first_ms": first / 1e6, "base_mb": base, **loaded.facts}

    def warm(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Every query once, then windows until three agree, at least ``runs`` runs and ``ms``; what
        takes longer than ``cap_ms`` is cut short."""
        least = max(request["runs"], self.timer.settling)
        runs, spent, stable = 0, 0.0, False
        while runs < len(self.queries) and spent < request["cap_ms"]:
            runs, spent = runs + 1, spent + self._run() / 1e6
            _check(self.outputs)
        windows: list[float] = []
        while not windows or spent < request["cap_ms"] and not stable:
            window = self._measure(request["window_ms"], least=3)
            runs, spent = runs + len(window), spent + sum(window) / 1e6
            windows.append(float(np.median(window)))
            last = np.array(windows[-3:])
            settled = len(last) == 3 and last.std() <= STABLE * last.mean()
            stable = bool(settled and runs >= least and spent >= request["ms"])
        self.refill = windows[-1] / 1e6 < REFILLED_MS
        return {"runs": runs, "stable": stable}

    def round(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Back-to-back runs. What comes first is not measured: where runs are short, one more that
        refills the caches that other workers used in between, and runs for ``lead_ms``, which use
        up what a quota saved meanwhile."""
        if self.refill or request["lead_ms"]:
            self._measure(request["lead_ms"], least=1)
        energy.spent(self.energy)
        throttled, cpu, began = cgroups.throttled(self.limits), self.usage.cpu_ns(), time.time()
        ns = self._measure(request["ms"], least=1)
        ended, cpu, joules = time.time(), self.usage.cpu_ns() - cpu, energy.spent(self.energy)
        if throttled is not None:
            throttled = (cgroups.throttled(self.limits) or throttled) - throttled
        spin, peak = self.usage.rest(), self.usage.peak_mb()
        _check(self.outputs)
        return {
            "ns": ns, "began": began, "ended": ended, "cpu_ns": cpu, "spin_ms": spin,
            "peak_mb": peak, "energy": joules, "throttled": throttled,
        }  # fmt: skip

    def _run(self) -> int:
        return self._measure(0.0, least=1)[0]

    def _measure(self, ms: float, least: int) -> list[int]:
        latencies, self.outputs = self.timer.timed(self.queries, ms, least)
        return latencies


class Here:
    """The ``openers.Timer`` of what runs in this process."""

    process: int | None = None
    settling = 0

    def __init__(self, run: Callable[[openers.Query], Sequence[np.ndarray]]) -> None:
        self.run, self.turn = run, 0

    def timed(
        self, queries: Sequence[openers.Query], ms: float, least: int
    ) -> tuple[list[int], Sequence[np.ndarray]]:
        latencies: list[int] = []
        outputs: Sequence[np.ndarray] = ()
        end = time.perf_counter_ns() + int(ms * 1e6)
        gc.disable()
        while len(latencies) < least or time.perf_counter_ns() < end:
            query = queries[self.turn]
            self.turn = (self.turn + 1) % len(queries)
            begin = time.perf_counter_ns()
            outputs = self.run(query)
            latencies.append(time.perf_counter_ns() - begin)
        gc.enable()
        return latencies, outputs


def _check(outputs: Sequence[np.ndarray]) -> None:
    for index, output in enumerate(outputs):
        bad = int(output.size - np.isfinite(output).sum())
        if bad:
            raise FellShort(
                f"Output {index} holds {bad} values of {output.size} that are not finite; "
                "verify the artefact on this target."
            )


def _settle() -> None:
    """Die with the parent and before it: Ctrl-C is the parent's, a parent that is killed takes a
    hanging worker along, and where memory runs out Linux ends the worker that it is for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if sys.platform == "linux":
        import ctypes

        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if sys.argv[1:] and os.getppid() != int(sys.argv[1]):
        sys.exit("The sweep ended before its worker began.")


def main() -> None:
    """Answer requests until stdin ends."""
    _settle()
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    session = Session()
    actions = {"open": session.open, "warm": session.warm, "round": session.round}
    for line in requests:
        request = json.loads(line)
        try:
            answer = actions[request["do"]](request)
        except (Exception, SystemExit) as error:  # noqa: BLE001  a model's code may raise anything
            words = " ".join(str(error).split())[:400] or type(error).__name__
            answer = {"error": words, "kind": type(error).__name__}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
