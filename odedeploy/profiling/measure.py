"""The sweep: fresh workers, opened one by one, then measured in interleaved rounds.

Every round visits all live workers once, in a seeded order of its own, so that what slows the
machine for a while slows all of them, and their latencies can be compared round by round.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from odedeploy.errors import OdeDeployError
from odedeploy.profiling import stats
from odedeploy.profiling.process import Worker

Progress = Callable[[float, str], None]
"""Called with the share that is done, 0 to 1, and what is being done."""

WARM_UP = {"runs": 10, "ms": 200, "window_ms": 40, "cap_ms": 3000}
LEAST_ROUNDS = stats.needed(0.5)
AIMED_ROUNDS = 20
ROUND_MS = (10.0, 500.0)


@dataclass
class Trace:
    """What one worker gave. ``rounds`` holds latencies in ns, one array a round; ``cpu_ns`` is
    processor time over all of them and ``spin_ms`` what idle threads
    burnt after each; ``joules`` is the energy of all rounds, None where nothing counts it.
    ``failure`` ends a trace."""

    facts: dict[str, Any] = field(default_factory=dict)
    rounds: list[np.ndarray] = field(default_factory=list)
    cpu_ns: int = 0
    spin_ms: list[float] = field(default_factory=list)
    peak_mb: float | None = None
    joules: float | None = None
    failure: OdeDeployError | None = None


def sweep(
    requests: Sequence[Mapping[str, Any]],
    seconds: float,
    timeout: float,
    seed: int,
    progress: Progress,
) -> list[Trace]:
    """One trace per request of ``open``, in order; a worker that fails costs only its own.

    Rounds go on for ``seconds`` after the last worker is warm, and until the median is supported.
    ``timeout`` limits each answer of a worker.
    """
    traces = [Trace() for _ in requests]
    with contextlib.ExitStack() as stack:
        workers = {}
        for index, (request, trace) in enumerate(zip(requests, traces, strict=True)):
            progress(0.0, f"loading {index + 1} of {len(requests)}: {request['label']}")
            workers[index] = worker = stack.enter_context(Worker())
            _open(trace, worker, request, timeout)
        order = np.random.default_rng(seed)
        alive, count, spent, begin = _alive(traces), 0, 0.0, time.monotonic()
        budget = 1e3 * seconds / (AIMED_ROUNDS * max(1, len(alive)))
        ms = min(max(budget, ROUND_MS[0]), ROUND_MS[1])
        while alive and (spent < seconds or count < LEAST_ROUNDS):
            for index in order.permutation(alive):
                _round(traces[index], workers[index], ms, timeout)
            spent, count, alive = time.monotonic() - begin, count + 1, _alive(traces)
            progress(min(1.0, spent / max(seconds, 1e-9)), f"round {count}")
    return traces


def _alive(traces: Sequence[Trace]) -> list[int]:
    return [index for index, trace in enumerate(traces) if trace.failure is None]


def _open(trace: Trace, worker: Worker, request: Mapping[str, Any], timeout: float) -> None:
    try:
        trace.facts |= worker.ask("open", timeout, **request)
        trace.facts |= worker.ask("warm", timeout, **WARM_UP)
    except OdeDeployError as error:
        trace.failure = error


def _round(trace: Trace, worker: Worker, ms: float, timeout: float) -> None:
    try:
        answer = worker.ask("round", timeout, ms=ms)
    except OdeDeployError as error:
        trace.failure = error
        return
    trace.rounds.append(np.array(answer["ns"], dtype=np.int64))
    trace.cpu_ns += answer["cpu_ns"]
    trace.spin_ms.append(answer["spin_ms"])
    trace.peak_mb = answer["peak_mb"]
    if answer["joules"] is not None:
        trace.joules = (trace.joules or 0.0) + answer["joules"]
