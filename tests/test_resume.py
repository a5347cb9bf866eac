"""Sweeps that are stopped, and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from odedeploy import targets
from odedeploy.manifest import ErrorReport
from odedeploy.profiling import Entry, Journal, Profile, profile

HERE = Path(__file__).parent
SLEEPS = replace(targets.find("cpu-1t"), name="sleeps", runtime="hostile:sleeps")
ASKED = {"seconds": 2.0}


def entries(folder: Path) -> list[Entry]:
    error = ErrorReport(0.01, 0.02, 0.001, 0.99, 0.95, 299)
    queries = [{"x": np.ones(3, np.float32)}]
    return [
        Entry(folder / ms, "m", target, 0.1, "onnx", "unrolled", "fp32", "rk4", 4, error, queries)
        for ms, batch in (("2", 1), ("4", 1), ("3", 8), ("5", 8))
        for target in [replace(SLEEPS, batch=batch)]
    ]


def measured(folder: Path, journal: Journal) -> Profile:
    return profile(entries(folder), (), ASKED["seconds"], journal=journal)


def run() -> None:
    """What the process does that is killed."""
    folder = Path(sys.argv[1])
    with Journal.begin(folder / "journal", ASKED) as journal:
        measured(folder, journal)


def lines(path: Path, kind: str) -> list[dict[str, object]]:
    whole = path.read_bytes()
    found = [json.loads(line) for line in whole[: whole.rfind(b"\n") + 1].splitlines()]
    return [line for line in found if line["kind"] == kind]


def rounds_of(path: Path, heat: str) -> int:
    return sum(str(line["job"]).endswith(heat) for line in lines(path, "round"))


@pytest.mark.parametrize("heat", ["batch 8", pytest.param("batch 1", marks=pytest.mark.slow)])
def test_a_sweep_killed_goes_on_and_measures_nothing_twice(tmp_path: Path, heat: str) -> None:
    """Killed in the first heat, and in the second."""
    path = tmp_path / "journal"
    code = "import test_resume; test_resume.run()"
    paths = os.pathsep.join([str(HERE), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": paths}
    )
    end = time.monotonic() + 60
    while time.monotonic() < end and (not path.exists() or rounds_of(path, heat) < 4):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = lines(path, "round")
    assert rounds_of(path, heat) >= 4
    opened = Counter(line["job"] for line in lines(path, "opened"))
    with Journal.resume(path, ASKED) as journal:
        result = measured(tmp_path, journal)
    after_all = lines(path, "round")
    assert after_all[: len(before)] == before
    assert set(Counter((x["job"], x["round"]) for x in after_all).values()) == {1}
    assert [row.status for row in result.rows] == ["measured"] * 4
    for row, ms in zip(result.rows, (2, 4, 3, 5), strict=True):
        assert ms <= row.latency_ms.p50
        own = [x for x in after_all if x["job"] == f"m: {ms} on sleeps, batch {row.batch}"]
        assert row.rounds == len(own) >= 7
        assert row.samples == sum(len(x["ns"]) for x in own)
    if heat == "batch 8":  # the first heat was over: its workers are not started again
        again = Counter(line["job"] for line in lines(path, "opened"))
        assert again["m: 2 on sleeps, batch 1"] == opened["m: 2 on sleeps, batch 1"] == 1
        assert again["m: 5 on sleeps, batch 8"] == 2


def test_a_finished_sweep_starts_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal.begin(tmp_path / "journal", ASKED) as journal:
        first = profile(entries(tmp_path)[:2], (), 0.3, journal=journal)
    monkeypatch.setattr("odedeploy.profiling.measure.Worker", None)
    with Journal.resume(tmp_path / "journal", ASKED) as journal:
        second = profile(entries(tmp_path)[:2], (), 0.3, journal=journal)
    assert second.rows == first.rows


def test_a_failed_row_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = replace(entries(tmp_path)[0], target=replace(SLEEPS, runtime="hostile:exits_on_load"))
    with Journal.begin(tmp_path / "journal", ASKED) as journal:
        (first,) = profile([bad], (), 0.3, journal=journal).rows
    monkeypatch.setattr("odedeploy.profiling.measure.Worker", None)
    with Journal.resume(tmp_path / "journal", ASKED) as journal:
        (second,) = profile([bad], (), 0.3, journal=journal).rows
    assert (second.status, second.reason) == (first.status, first.reason)
    assert first.status == "crashed"


def test_workers_die_with_the_sweep(tmp_path: Path) -> None:
    """A hanging worker of a sweep that was killed does not stay behind."""
    code = (
        "import sys, threading, time, numpy as np\n"
        "from odedeploy.profiling.process import Worker\n"
        f"np.savez({str(tmp_path / 'q.npz')!r}, **{{'0 x': np.ones(3)}})\n"
        "worker = Worker(); print(worker._process.pid, flush=True)\n"
        f"worker.ask('open', 60, runtime='hostile:hangs', queries={str(tmp_path / 'q.npz')!r})\n"
    )
    paths = os.pathsep.join([str(HERE), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert process.stdout is not None
    worker = Path(f"/proc/{int(process.stdout.readline())}")
    time.sleep(1.0)
    assert worker.exists()
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while worker.exists() and (worker / "status").read_text().find("State:\tZ") < 0:
        assert time.monotonic() < end
        time.sleep(0.05)
    process.stdout.close()
