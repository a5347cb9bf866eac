"""Openers of runtimes that misbehave, for the workers of the profiling tests."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from odedeploy.profiling.openers import Loaded, artefact


def exits_on_load(request: Mapping[str, Any]) -> Callable[[], Loaded]:
    def start() -> Loaded:
        print("planted last words", file=sys.stderr, flush=True)
        os._exit(7)

    return start


def aborts_while_running(request: Mapping[str, Any]) -> Callable[[], Loaded]:
    """Dies of SIGABRT once it has run for a second: in a round, after the warm-up."""

    def start() -> Loaded:
        end = time.monotonic() + 1.0

        def run(query: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            if time.monotonic() > end:
                os.abort()
            time.sleep(0.002)
            return list(query.values())

        return Loaded(run, {})

    return start


def hangs_while_running(request: Mapping[str, Any]) -> Callable[[], Loaded]:
    """Answers for a second, then never again."""

    def start() -> Loaded:
        end = time.monotonic() + 1.0

        def run(query: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            time.sleep(600 if time.monotonic() > end else 0.002)
            return list(query.values())

        return Loaded(run, {})

    return start


def eats_memory(request: Mapping[str, Any]) -> Callable[[], Loaded]:
    """Asks for more memory than the process may have."""
    import resource

    def start() -> Loaded:
        limit = 4 << 30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        kept = [np.empty(1 << 27) for _ in range(64)]
        return Loaded(lambda query: kept, {})

    return start


def is_killed(request: Mapping[str, Any]) -> Callable[[], Loaded]:
    """Ends as the system ends a process that takes too much memory."""

    def start() -> Loaded:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    return start


def turns_nan(request: Mapping[str, Any]) -> Callable[[], Loaded]:
    """Gives finite values for a second, NaN from then on."""

    def start() -> Loaded:
        end = time.monotonic() + 1.0

        def run(query: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            time.sleep(0.002)
            return [np.full(3, np.nan if time.monotonic() > end else 1.0)]

        return Loaded(run, {})

    return start


def hangs(request: Mapping[str, Any]) -> Callable[[], Loaded]:
    def start() -> Loaded:
        time.sleep(600)
        raise AssertionError("unreachable")

    return start


def prints(request: Mapping[str, Any]) -> Callable[[], Loaded]:
    """Writes to stdout, as native libraries do, which must not reach the protocol."""

    def start() -> Loaded:
        print("{not json")
        os.write(1, b"garbage\n")
        return Loaded(lambda query: list(query.values()), {})

    return start


def spies(request: Mapping[str, Any]) -> Callable[[], Loaded]:
    """An ONNX file in onnxruntime that tells what the process has imported."""
    start = artefact(request)

    def spied() -> Loaded:
        loaded = start()
        modules = sorted(name.split(".")[0] for name in sys.modules)
        return loaded._replace(facts=loaded.facts | {"modules": modules})

    return spied


def computes(request: Mapping[str, Any]) -> Callable[[], Loaded]:
    """One inference takes as many milliseconds of the processor as the file's name says."""
    seconds = float(os.path.basename(request["path"])) / 1e3

    def run(query: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        return list(query.values())

    return lambda: Loaded(run, {})


def sleeps(request: Mapping[str, Any]) -> Callable[[], Loaded]:
    """One inference takes as many milliseconds as the file's name says."""
    seconds = float(os.path.basename(request["path"])) / 1e3

    def run(query: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        time.sleep(seconds)
        return list(query.values())

    return lambda: Loaded(run, {})
