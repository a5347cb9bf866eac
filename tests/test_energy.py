"""Energy of counters and meters that exist, and none of those that do not."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles import row as a_row
from typer.testing import CliRunner

from odedeploy import targets
from odedeploy.cli import app
from odedeploy.errors import BadInput
from odedeploy.manifest import ErrorReport
from odedeploy.profiling import Entry, Journal, energy, measure, meter, nvml, profile
from odedeploy.profiling.meter import GAP, Meter
from odedeploy.profiling.nvml import Nvml
from odedeploy.profiling.rapl import Rapl

# RAPL


def zone(folder: Path, name: str, value: int) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "energy_uj").write_text(f"{value}\n")
    (folder / name / "max_energy_range_uj").write_text("999999\n")


def test_energy_of_all_packages_and_of_a_counter_that_starts_again(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 100)
    zone(tmp_path, "intel-rapl:1", 900_000)
    zone(tmp_path, "intel-rapl:0:0", 5)
    counter = Rapl(tmp_path)
    zone(tmp_path, "intel-rapl:0", 1100)
    zone(tmp_path, "intel-rapl:1", 100_000)
    zone(tmp_path, "intel-rapl:0:0", 900)
    assert counter.joules() == pytest.approx((1000 + 200_000) / 1e6)
    assert counter.joules() == 0


def test_no_counter_is_no_guess(tmp_path: Path) -> None:
    assert Rapl(tmp_path).joules() is None
    zone(tmp_path, "intel-rapl:0", 7)
    counter = Rapl(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("")
    assert counter.joules() is None


# NVML


class NVMLError(Exception):
    pass


class Driver:
    """pynvml on a machine with as many GPUs as ``energies`` in mJ, and its clock."""

    def __init__(self, energies: dict[str, int | None]) -> None:
        self.energies, self.now = energies, 100.0
        self.NVMLError = NVMLError
        self.loaded = False

    def nvmlInit(self) -> None:
        if not self.energies:
            raise NVMLError("no driver")
        self.loaded = True

    def nvmlDeviceGetCount(self) -> int:
        assert self.loaded
        return len(self.energies)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index >= len(self.energies):
            raise NVMLError("invalid argument")
        return list(self.energies)[index]

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:
        if name not in self.energies:
            raise NVMLError("not found")
        return name

    def nvmlDeviceGetTotalEnergyConsumption(self, name: str) -> int:
        value = self.energies[name]
        if value is None:
            raise NVMLError("not supported")
        return value

    def passes(self, seconds: float, **energies: int) -> None:
        self.now += seconds
        for name, more in energies.items():
            known = self.energies[f"GPU-{name}"]
            assert known is not None
            self.energies[f"GPU-{name}"] = known + more


def driver(
    monkeypatch: pytest.MonkeyPatch, energies: dict[str, int | None], **environment: str
) -> Driver:
    found = Driver(energies)
    monkeypatch.setitem(sys.modules, "pynvml", found)  # type: ignore[arg-type]
    monkeypatch.setattr(nvml, "time", SimpleNamespace(monotonic=lambda: found.now))
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return found


def test_joules_of_a_gpu_since_the_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = driver(monkeypatch, {"GPU-a": 5_000_000})
    counter = Nvml()
    gpu.passes(0.5, a=20_000)
    assert counter.joules() == pytest.approx(20.0)
    gpu.passes(1.0, a=7_500)
    assert counter.joules() == pytest.approx(7.5)


def test_a_gpu_tells_nothing_of_short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = driver(monkeypatch, {"GPU-a": 1000})
    counter = Nvml()
    gpu.passes(nvml.LEAST_SECONDS / 2, a=100)
    assert counter.joules() is None
    gpu.passes(1.0, a=300)
    assert counter.joules() == pytest.approx(0.3)
    gpu.passes(1.0)
    assert counter.joules() is None  # a counter that stands still counts nothing


@pytest.mark.parametrize(
    ("environment", "counted"),
    [
        ({}, None),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, "a"),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1,0"}, "b"),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "7"}, None),
        ({"CUDA_VISIBLE_DEVICES": "1"}, None),
        ({"CUDA_VISIBLE_DEVICES": "GPU-b"}, "b"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-c"}, None),
        ({"CUDA_VISIBLE_DEVICES": "MIG-a"}, None),
    ],
)
def test_of_several_gpus_the_one_that_cuda_means_or_none(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], counted: str | None
) -> None:
    gpus = driver(monkeypatch, {"GPU-a": 0, "GPU-b": 0}, **environment)
    counter = Nvml()
    gpus.passes(1.0, a=1000, b=2000)
    assert counter.joules() == {None: None, "a": 1.0, "b": 2.0}[counted]


@pytest.mark.parametrize("energies", [{}, {"GPU-a": None}])
def test_no_driver_and_an_old_gpu_are_no_guess(
    monkeypatch: pytest.MonkeyPatch, energies: dict[str, int | None]
) -> None:
    gpu = driver(monkeypatch, energies)
    counter = Nvml()
    gpu.passes(1.0)
    assert counter.joules() is None


def test_no_package_is_no_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Nvml().joules() is None


@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_gpu_is_counted_where_the_target_runs_on_one(name: str) -> None:
    target = targets.find(name)
    on_gpu = any("CUDA" in provider for provider in target.providers)
    assert (energy.GPU in energy.counters({"options": target.opening})) is on_gpu
    kit = {"providers": list(target.providers)}
    assert (energy.GPU in energy.counters(kit)) is on_gpu


def test_the_meter_holds_all_others() -> None:
    assert energy.total({}) is None
    assert energy.total({"package": 2.0, "gpu": 3.0}) == 5.0
    assert energy.total({"package": 2.0, "meter": 9.0, "gpu": 3.0}) == 9.0


# The meter

GAPS = st.lists(st.integers(0, int(GAP * 10)).map(lambda n: n / 10), min_size=3, max_size=30)
SHARE = st.floats(0, 1)


def inside(gaps: list[float], shares: tuple[float, float]) -> tuple[np.ndarray, float, float]:
    """Times of samples, and a window between the first and the last."""
    times = 1.7e9 + np.cumsum([0.0, *gaps])
    low, high = sorted(shares)
    span = times[-1] - times[0]
    return times, times[0] + low * span, min(times[0] + high * span, times[-1])


@given(GAPS, st.tuples(SHARE, SHARE), st.floats(0, 1e3))
def test_constant_power_is_power_times_time(
    gaps: list[float], shares: tuple[float, float], watts: float
) -> None:
    times, began, ended = inside(gaps, shares)
    found = Meter(list(times), [watts] * len(times)).joules(began, ended)
    assert found == pytest.approx(watts * (ended - began), rel=1e-9, abs=1e-9)


@given(GAPS, st.tuples(SHARE, SHARE), st.data())
def test_energy_is_that_of_the_linear_interpolant(
    gaps: list[float], shares: tuple[float, float], data: st.DataObject
) -> None:
    """Against exact rationals, segment by segment; times that are doubled are a jump."""
    times, began, ended = inside(gaps, shares)
    watts = data.draw(st.lists(st.integers(0, 100), min_size=len(times), max_size=len(times)))
    exact = Fraction(0)
    segments = zip(zip(times, watts, strict=True), zip(times[1:], watts[1:], strict=True),
                   strict=False)  # fmt: skip
    for (t0, p0), (t1, p1) in segments:
        left, right = max(t0, began), min(t1, ended)
        if right > left:
            slope = Fraction(p1 - p0) / (Fraction(t1) - Fraction(t0))
            middle = (Fraction(left) + Fraction(right)) / 2
            exact += (p0 + slope * (middle - Fraction(t0))) * (Fraction(right) - Fraction(left))
    found = Meter(list(times), watts).joules(began, ended)
    assert found == pytest.approx(float(exact), rel=1e-6, abs=1e-4)


@given(GAPS, st.tuples(SHARE, SHARE), st.integers(0, 30))
def test_gaps_and_missing_ends_are_no_guess(
    gaps: list[float], shares: tuple[float, float], where: int
) -> None:
    times, began, ended = inside(gaps, shares)
    whole = Meter(list(times), [1.0] * len(times))
    assert whole.joules(began, ended) is not None
    assert whole.joules(times[0] - 0.01, ended) is None
    assert whole.joules(began, times[-1] + 0.01) is None
    at = where % len(times)
    moved = times + np.where(np.arange(len(times)) > at, GAP + 0.001, 0.0)
    gapped = Meter(list(moved), [1.0] * len(times))
    covers = moved[at] <= began or at == len(times) - 1 or moved[at + 1] <= began
    assert (gapped.joules(moved[0], moved[-1]) is None) is (at < len(times) - 1)
    if covers and began <= ended <= moved[at]:
        assert gapped.joules(began, ended) is not None


def written(folder: Path, text: str) -> Path:
    (folder / "meter.csv").write_text(text)
    return folder / "meter.csv"


def test_a_file_of_unix_seconds_or_iso_8601(tmp_path: Path) -> None:
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
    file = written(
        tmp_path,
        " Watts ,volts,time\n10,5,2026-03-01T12:00:00Z\n\n10,5,2026-03-01T14:00:01.5+02:00\n"
        f"10,5,{moment + 3}\n10,5,17",
    )
    found = meter.read(file)
    assert found.last == moment + 3  # the line that is being written is left for later
    assert found.joules(moment, moment + 3) == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "begins with nothing"),
        ("time,power\n", "must name the columns time and watts"),
        ("time,watts\n1,2\n2,much\n", "line 3: '2,much'"),
        ("time,watts\n1,2\n\nnoon,2\n", "line 4: 'noon,2'"),
        ("time,watts\n1,2\n2\n", "line 3"),
        ("time,watts\n1,2\n2,nan\n", "line 3.*not a finite number"),
        ("time,watts\n5,2\n4,2\n", "line 3.*before the line above it"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        meter.read(written(tmp_path, text))
    done = CliRunner().invoke(
        app, ["profile", "mnist-odenet", "--meter", str(tmp_path / "meter.csv"), "-o",
              str(tmp_path / "out")],
    )  # fmt: skip
    assert done.exit_code == 2 and "Traceback" not in done.output


def test_a_missing_file_and_two_of_one_device_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        meter.read(tmp_path / "none.csv")
    with pytest.raises(BadInput, match="pi has two meters"):
        meter.named(["pi=a.csv", "b.csv", "pi=c.csv"])
    file = written(tmp_path, "").rename(tmp_path / "a=b.csv")
    assert meter.named([str(file), "pi=x=y.csv"]) == {"": file, "pi": Path("x=y.csv")}


def test_the_last_sample_is_waited_for(tmp_path: Path) -> None:
    now = time.time()
    file = written(tmp_path, f"time,watts\n{now - 1},3\n")

    def later() -> None:
        time.sleep(0.3)
        with open(file, "a") as lines:
            lines.write(f"{now + 0.1},3\n")

    thread = threading.Thread(target=later)
    thread.start()
    found = meter.covering(file, now)
    thread.join()
    assert found.joules(now - 1, now) == pytest.approx(3.0)
    began = time.monotonic()
    assert meter.covering(file, now - 60).last > now
    assert meter.covering(file, now - 3 * GAP).last > now
    assert time.monotonic() - began < GAP / 2


def sleeping(folder: Path) -> list[Entry]:
    report = ErrorReport(0.01, 0.02, 0.001, 0.99, 0.95, 299)
    target = replace(targets.find("cpu-1t"), name="sleeps", runtime="hostile:sleeps")
    queries = [{"x": np.ones(3, np.float32)}]
    return [
        Entry(folder / ms, "m", target, 0.1, "onnx", "unrolled", "fp32", "rk4", 4, report, queries)
        for ms in ("3", "9")
    ]


def test_rows_hold_the_energy_of_their_own_rounds(tmp_path: Path) -> None:
    now = time.time()
    samples = "".join(f"{now + k},{7}\n" for k in range(-2, 300))
    file = written(tmp_path, "time,watts\n" + samples)
    journal = Journal()
    result = profile(sleeping(tmp_path), (), 0.6, journal=journal, meter=file)
    lines: list[dict[str, Any]] = list(journal.of("round"))
    for row in result.rows:
        own = [line for line in lines if row.file in line["job"].split()[1]]
        spent = sum(line["ended"] - line["began"] for line in own)
        runs = sum(len(line["ns"]) for line in own)
        assert row.energy_mj == pytest.approx(7e3 * spent / runs, rel=1e-5)
        assert row.energies_mj["meter"] == row.energy_mj
        assert row.began == min(line["began"] for line in own)
        assert row.ended == max(line["ended"] for line in own)
        assert now <= row.began < row.ended <= time.time()
        assert row.energy_mj >= 7 * float(row.file)
    assert not any("meter" in sentence for sentence in result.warnings)


def test_a_gpu_is_counted_in_the_process_that_runs_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that takes 50 W all the time; short rounds are left out."""
    (tmp_path / "pynvml.py").write_text(
        "import time\n\n\nclass NVMLError(Exception):\n    pass\n\n\n"
        "nvmlInit, nvmlDeviceGetCount = int, lambda: 1\n"
        "nvmlDeviceGetHandleByIndex = str\n"
        "def nvmlDeviceGetTotalEnergyConsumption(gpu):\n    return int(50e3 * time.time())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (plain, _) = sleeping(tmp_path)
    asked = replace(plain, target=replace(plain.target, options={"device": "cuda"}))
    monkeypatch.setattr(measure, "AIMED_ROUNDS", 7)
    (row,) = profile([asked], (), 1.6).rows
    assert row.throughput is not None
    assert row.energies_mj["gpu"] == pytest.approx(50e3 / row.throughput, rel=0.2)
    assert row.energy_mj == sum(row.energies_mj.values())
    (short,) = profile([asked], (), 0.1).rows
    assert short.measured and "gpu" not in short.energies_mj


def test_a_meter_that_stops_or_breaks_costs_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, f"time,watts\n{time.time()},7\n")
    monkeypatch.setattr(meter, "GAP", 0.1)
    result = profile(sleeping(tmp_path)[:1], (), 0.1, meter=file)
    (row,) = result.rows
    assert row.measured and row.energy_mj is None and not row.energies_mj
    assert "covers 0 of 1 rows" in meter.lacking(result.rows, {"": file})[0]
    assert meter.lacking([replace(a_row("cpu", 1.0, 0.1), energies_mj={"meter": 1.0})],
                         {"": file}) == ()  # fmt: skip

    def breaks(path: Path, ended: float | None) -> Meter:
        return meter.read(written(tmp_path, "time,watts\n1,x\n"))

    file = written(tmp_path, "time,watts\n")
    monkeypatch.setattr(meter, "covering", breaks)
    result = profile(sleeping(tmp_path)[:1], (), 0.1, meter=file)
    assert result.rows[0].measured and "line 2" in result.warnings[-1]
