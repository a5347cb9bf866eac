"""A share of the processor: where there are control groups, and what becomes of it there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from odedeploy import cgroups, targets
from odedeploy.errors import Unusable
from odedeploy.manifest import ErrorReport
from odedeploy.profiling import Baseline, Entry, Journal, Row, profile
from odedeploy.profiling.process import Worker
from odedeploy.targets import Target

HALF = targets.find("cpu-half")
FIFTH = replace(HALF, name="fifth", quota=0.2)
QUERY = [{"x": np.ones(3, np.float32)}]
REFUSAL = cgroups.refusal(0.5)
allowed = pytest.mark.skipif(REFUSAL is not None, reason=str(REFUSAL))

V1 = "12 31 0:29 {root} {mount}/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct"
V2 = "20 31 0:38 {root} {mount} rw,relatime - cgroup2 cgroup2 rw"


def proc(folder: Path, mounts: list[str], own: str, root: str = "/") -> Path:
    """What /proc/self says, of control groups in ``folder``/cgroup."""
    place = folder / "proc"
    place.mkdir()
    lines = ["11 23 0:28 / /tmp rw - tmpfs tmpfs rw", *mounts]
    text = "\n".join(lines).format(mount=folder / "cgroup", root=root)
    (place / "mountinfo").write_text(text + "\n")
    (place / "cgroup").write_text(own)
    return place


def groups(folder: Path, **files: str) -> None:
    """Files of control groups, their paths written with ``__``; ``_dot_`` is a dot."""
    for name, text in files.items():
        file = folder / "cgroup" / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture
def removable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files in the folders of a real control group do not keep it from being removed."""
    monkeypatch.setattr(cgroups, "_KEEPER", cgroups._KEEPER.replace("rmdir", "rm -r"))
    yield


def test_version_1(tmp_path: Path, removable: None) -> None:
    here = proc(tmp_path, [V2, V1], "4:memory:/m\n1:cpu,cpuacct:/a/b\n0::/u\n")
    groups(tmp_path, cpu__a__b__cpu_dot_stat="nr_periods 9\nnr_throttled 7\nthrottled_time 1\n",
           cpu__a__cpu_dot_cfs_quota_us="150000\n", cpu__a__cpu_dot_cfs_period_us="100000\n",
           cpu__cpu_dot_cfs_quota_us="-1\n", cpu__cpu_dot_cfs_period_us="100000\n")  # fmt: skip
    found = cgroups.hierarchy(here)
    assert found is not None
    own = tmp_path / "cgroup" / "cpu" / "a" / "b"
    assert (found.version, found.own, found.nursery()) == (1, own, own)
    assert cgroups.limit(here) == 1.5
    assert cgroups.throttled(cgroups.statistics(here)) == 7
    with cgroups.Group(0.25, here) as group:
        assert group.path.parent == own
        assert (group.path / "cpu.cfs_period_us").read_text() == "100000"
        assert (group.path / "cpu.cfs_quota_us").read_text() == "25000"
        group.add(17)
        assert (group.path / "cgroup.procs").read_text() == "17"
    assert not group.path.exists()


def test_version_2(tmp_path: Path, removable: None) -> None:
    """The own group holds processes, so that the new one comes where the controller is handed on;
    the mount shows only what is below /pod."""
    here = proc(tmp_path, [V2], "0::/pod/a/b\n", root="/pod")
    groups(tmp_path, a__b__cgroup_dot_subtree_control="\n", a__b__cpu_dot_max="max 100000\n",
           a__cgroup_dot_subtree_control="cpuset cpu io\n", a__cpu_dot_max="50000 200000\n",
           a__b__cpu_dot_stat="usage_usec 5\n")  # fmt: skip
    found = cgroups.hierarchy(here)
    assert found is not None
    assert (found.version, found.nursery()) == (2, tmp_path / "cgroup" / "a")
    assert cgroups.limit(here) == 0.25
    assert cgroups.throttled(cgroups.statistics(here)) is None
    with cgroups.Group(1.5, here) as group:
        assert group.path.parent == tmp_path / "cgroup" / "a"
        assert (group.path / "cpu.max").read_text() == "150000 100000"
    assert not group.path.exists()


@pytest.mark.parametrize("mounts", [[], [V2]])
def test_no_controller_is_refused(tmp_path: Path, mounts: list[str]) -> None:
    here = proc(tmp_path, mounts, "0::/\n")
    with pytest.raises(Unusable, match="needs Linux with the cpu controller"):
        cgroups.Group(0.5, here)
    assert cgroups.limit(here) is None
    assert cgroups.limit(tmp_path / "missing") is None
    assert cgroups.throttled(cgroups.statistics(tmp_path / "missing")) is None


def test_what_the_system_refuses_is_told(tmp_path: Path) -> None:
    here = proc(tmp_path, [V1], "1:cpu:/none\n")
    with pytest.raises(Unusable, match="cgroup/cpu/none.*No such file.*run as root"):
        cgroups.Group(0.5, here)


# Real groups


def spins(seconds: float) -> list[str]:
    code = f"import time\nend = time.time() + {seconds}\nwhile time.time() < end: pass\n"
    return [sys.executable, "-S", "-c", f"input()\n{code}print(time.process_time())"]


@allowed
def test_a_process_gets_no_more_than_its_quota() -> None:
    with cgroups.Group(0.25) as group:
        process = subprocess.Popen(
            spins(1.5), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        group.add(process.pid)
        told, _ = process.communicate("\n")
        stopped = cgroups.throttled(group.path / "cpu.stat")
    assert float(told) < 0.25 * 1.5 + 0.15
    assert stopped is not None and stopped >= 3
    assert not group.path.exists()


@allowed
def test_a_killed_sweep_leaves_no_group() -> None:
    code = (
        "from odedeploy.profiling.process import Worker\n"
        "worker = Worker(0.5)\n"
        "print(worker._group.path, worker._process.pid, flush=True)\n"
        "input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdout is not None and process.stdin is not None
    path, worker = process.stdout.readline().split()
    assert worker in (Path(path) / "cgroup.procs").read_text().split()
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while Path(path).exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    process.stdout.close()
    process.stdin.close()


def entry(folder: Path, target: Target) -> Entry:
    """Inferences of 2 ms of the processor each."""
    report = ErrorReport(0.01, 0.02, 0.001, 0.99, 0.95, 299)
    target = replace(target, runtime="hostile:computes")
    return Entry(
        folder / "2", "m", target, 0.1, "onnx", "unrolled", "fp32", "rk4", 4, report, QUERY
    )  # fmt: skip


def check_limited(row: Row, quota: float) -> None:
    assert row.measured, row.reason
    assert row.quota == quota
    assert row.throttled is not None and row.throttled >= row.rounds
    assert row.began is not None and row.ended is not None
    assert row.ended - row.began > row.rounds * 0.5
    assert row.cpu_seconds is not None and row.throughput is not None
    assert row.cpu_seconds * row.throughput < 1.3 * quota


@allowed
def test_rows_tell_the_quota_under_which_they_were_measured(tmp_path: Path) -> None:
    whole = replace(targets.find("cpu-1t"), name="whole")
    journal = Journal()
    result = profile([entry(tmp_path, FIFTH), entry(tmp_path, whole)], (), 0.5, journal=journal)
    limited, full = result.rows
    check_limited(limited, 0.2)
    assert full.measured and full.quota is None
    slowest = max(max(line["ns"]) for line in journal.of("round") if FIFTH.name in line["job"])
    assert slowest > 20e6  # stopped in the middle
    found = cgroups.hierarchy()
    nursery = None if found is None else found.nursery()
    assert nursery is not None
    assert not list(nursery.glob(f"odedeploy-{os.getpid()}-*"))
    assert result.machine["quota"] == cgroups.limit()


@allowed
@pytest.mark.slow
def test_the_model_in_pytorch_has_the_quota_of_the_target_beside_it(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "import torch\n\n\nclass Sum(torch.nn.Module):\n    def forward(self, x):\n"
        "        return x @ torch.ones(64, 64)\n"
    )
    query = [{"x": np.ones((1, 64), np.float32)}]
    baseline = Baseline("m", f"{tmp_path}/model.py:Sum", "dopri5", query)
    whole = replace(targets.find("cpu-1t"), name="whole")
    result = profile([entry(tmp_path, HALF), entry(tmp_path, whole)], [baseline], 0.5)
    limited, free = result.baselines
    check_limited(limited, 0.5)
    assert free.measured and free.quota is None


def test_without_rights_the_target_is_unusable_and_never_unlimited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "hierarchy", lambda proc=None: None)
    reason = targets.usable(HALF)
    assert reason is not None and "Target 'cpu-half' is not usable: a quota needs" in reason
    with pytest.raises(Unusable):
        Worker(0.5)
    (row,) = profile([entry(tmp_path, HALF)], (), 0.1).rows
    assert (row.status, row.reason, row.latency_ms.p50) == ("unusable", reason, None)
    monkeypatch.setattr("odedeploy.profiling.usable", lambda target: None)
    free = entry(tmp_path, targets.find("cpu-1t"))
    row, other = profile([entry(tmp_path, HALF), free], (), 0.1).rows
    assert row.status == "unusable" and "a quota needs" in row.reason
    assert other.measured
