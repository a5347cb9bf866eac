"""Whole sweeps from the command line: every table they go through, plans kept, kits and devices."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from typer.testing import CliRunner

from odedeploy import api, targets
from odedeploy.cli import app
from odedeploy.errors import BadInput
from odedeploy.planned import silent
from odedeploy.profiling import Profile, devices, kit_run, machine, meter, packing
from odedeploy.runtime import GoldenCheck
from odedeploy.spec import ExportSpec
from odedeploy.tradeoff import Request, clock
from odedeploy.tradeoff.workshop import Workshop

HERE = Path(__file__).parent
MODEL = '''
import torch
from torch import nn
from torchdiffeq import odeint


class Decay(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2)

    def forward(self, x):
        return odeint(lambda t, y: torch.tanh(self.net(y)), x, torch.tensor([0.0, 1.0]))[-1]


def build(kind=Decay, rows=400):
    torch.manual_seed(0)
    return kind(), torch.randn(rows, 2)


def plain():
    return build(lambda: nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)))


def refused():
    raise ValueError("planted")
'''
OPTIONS = ("--solver", "rk4", "--samples", "330", "--seconds", "0.4", "--target", "cpu-1t")


def call(*arguments: str | Path):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "decay.py").write_text(MODEL)
    return folder


def sweep_of(place: Path, *more: str | Path):
    return call(
        "profile", f"{place}/decay.py:build", f"{place}/decay.py:plain", *OPTIONS, "--tol", "1e-1",
        "--tol", "1e-2", "--batch", "1", "--batch", "8", "-o", place / "out", "--json", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def swept(place: Path) -> dict:
    """Two models, one without a solve, at two tolerances and two batch sizes."""
    result = sweep_of(place)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_every_combination_has_its_row(swept: dict) -> None:
    rows = [row for row in swept["rows"] if row["model"].endswith(":build")]
    assert [row["status"] for row in rows] == ["measured"] * 4
    assert sorted((row["tol"], row["batch"]) for row in rows) == [
        (0.01, 1), (0.01, 8), (0.1, 1), (0.1, 8)
    ]  # fmt: skip
    for row in rows:
        assert row["throughput"] == pytest.approx(
            1e3 * row["batch"] / row["latency_ms"]["p50"], rel=0.9
        )


def test_every_model_has_a_baseline_at_every_batch(swept: dict) -> None:
    found = [(row["model"].rpartition(":")[2], row["batch"]) for row in swept["baselines"]]
    assert sorted(found) == [("build", 1), ("build", 8), ("plain", 1), ("plain", 8)]
    assert all(row["status"] == "measured" for row in swept["baselines"])
    assert {row["ratio"]["base"] for row in swept["rows"]} == {"PyTorch"}


def test_a_network_without_a_solve_is_exported_once(swept: dict) -> None:
    plain = [row for row in swept["rows"] if row["model"].endswith(":plain")]
    assert [(row["solver"], row["file"]) for row in plain] == [("none", "decay-2-0.01.onnx")] * 2


def test_a_request_goes_through_every_table() -> None:
    """Tolerances × precisions × forms × targets; what cannot be is a cell with its reason."""
    names = ("cpu", "cpu-1t", "torchscript")
    request = Request(
        [Path("x.onnx"), cast(Any, None)], (0.1, 0.01), names, ("fp32", "int8"),
        ("unrolled", "loop"), (1, 64),
    )  # fmt: skip
    cells = list(request.cells())
    assert len(cells) == 3 * 2 * 2 * 2
    assert [(t.name, t.batch) for t in request.chosen] == [
        (name, batch) for batch in (1, 64) for name in names
    ]
    impossible = {(c.target.name, c.precision, c.form) for c in cells if c.spec is None}
    onnx_only = {("torchscript", "int8", "unrolled")}
    loops = {(name, "int8", "loop") for name in names} | {("torchscript", "fp32", "loop")}
    assert impossible == onnx_only | loops
    assert all(cell.problem for cell in cells if cell.spec is None)
    assert all(cell.spec.format == cell.target.format for cell in cells if cell.spec)


@pytest.mark.parametrize(
    "wrong", [{"precisions": ("fp31",)}, {"forms": ("rolled",)}, {"targets": ("tpu",)},
              {"tols": ()}, {"targets": ()}, {"tols": (-1.0,)}, {"batches": (0,)}]
)  # fmt: skip
def test_nonsense_is_refused_before_any_work(wrong: dict[str, Any]) -> None:
    asked = {"tols": (0.1,), "targets": ("cpu",), **wrong}
    with pytest.raises(BadInput):
        Request([cast(Any, None)], **asked)


def test_rows_tell_the_command_that_makes_them(swept: dict, place: Path) -> None:
    row = next(r for r in swept["rows"] if r["file"] == "decay-0.1.onnx")
    words = row["command"].split()
    assert words[:3] == ["odedeploy", "export", f"{place}/decay.py:build"]
    for pair in ("--tol 0.1", "--solver rk4", "--samples 330", "--target cpu-1t"):
        assert pair in row["command"]


def test_resumed_sweep_is_the_same_without_work(
    swept: dict, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("profiling.measure.Worker", "tradeoff.workshop.plan_splits",
                 "tradeoff.workshop.captured"):  # fmt: skip
        monkeypatch.setattr(f"odedeploy.{name}", None)
    again = sweep_of(place, "--resume")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["rows"] == swept["rows"]


def test_another_request_does_not_resume(swept: dict, place: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in (place / "out").iterdir()}
    result = call("profile", f"{place}/decay.py:build", *OPTIONS, "-o", place / "out", "--resume")
    assert result.exit_code == 2
    assert "was begun with models" in result.stderr
    assert {p.name: p.stat().st_mtime_ns for p in (place / "out").iterdir()} == before


@pytest.mark.slow
def test_plans_are_searched_once(
    swept: dict, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new sweep in a folder delivers the plans that lie there, in another format."""
    shutil.copytree(place / "out" / "plans", place / "again" / "plans")
    plans = {p.name: p.read_bytes() for p in (place / "again" / "plans").iterdir()}
    monkeypatch.setattr("odedeploy.tradeoff.workshop.plan_splits", None)
    result = call(
        "profile", f"{place}/decay.py:build", "--solver", "rk4", "--samples", "330", "--seconds",
        "0.3", "--tol", "1e-1", "--tol", "1e-2", "--target", "torchscript-1t", "-o",
        place / "again", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert {(row["format"], row["status"]) for row in rows} == {("torchscript", "measured")}
    assert {row["nfe"] for row in rows} == {
        row["nfe"] for row in swept["rows"] if row["file"].startswith("decay-0.")
    }
    assert {p.name: p.read_bytes() for p in (place / "again" / "plans").iterdir()} == plans


def test_a_lower_precision_starts_from_the_plan_in_fp32(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ExportSpec(tol=1e-1, solver="rk4", samples=330)
    model = api.load_model(f"{place}/decay.py:build")
    shop = Workshop(model, spec, tmp_path, clock.Clock(silent, None, 1.0))
    whole = shop.planned(spec)
    given: list[Any] = []
    monkeypatch.setattr(
        "odedeploy.tradeoff.workshop.plan_splits", lambda *known: given.append(known[-1]) or whole
    )
    shop.planned(replace(spec, precision="int8"))
    assert [(known.spec, known.search) for known in given] == [(spec, whole.search)]


@pytest.mark.slow
def test_a_model_that_cannot_be_exported_costs_its_rows(place: Path) -> None:
    (place / "bad.py").write_text(MODEL.replace("return odeint", "return torch.zeros(3) + odeint"))
    result = call(
        "profile", f"{place}/decay.py:plain", f"{place}/bad.py:build", *OPTIONS, "--tol", "1e-2",
        "-o", place / "mixed", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert [row["status"] for row in rows] == ["measured", "failed"]
    alone = call("profile", f"{place}/bad.py:build", *OPTIONS, "-o", place / "alone")
    assert alone.exit_code == 2
    assert not (place / "alone" / "sweep.jsonl").exists()


def test_the_time_left_is_learned_from_what_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [0.0], []
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: now[0]))
    timer = clock.Clock(lambda text, done, total: told.append((text, done, total)), None, 40.0)
    timer.left |= {"plan": 3, "measure": 1}
    with timer.step("plan", "m at 0.1") as inside:
        now[0] = 10.0
        inside("rank", 1, 3)
    assert told == [("m at 0.1", 0, 130), ("m at 0.1: rank", 10, 130)]
    with timer.step("plan", "m at 0.01"):
        now[0] = 30.0
    timer.skip("plan")
    tell = timer.measuring()
    tell(0.0, "loading")
    now[0] = 50.0
    tell(0.5, "round 4")
    assert told[2:] == [
        ("m at 0.01", 10, 70), ("loading", 30, 70), ("round 4", 50, 70)
    ]  # fmt: skip


BLOCKED = ("torch", "onnx", "onnx_ir", "scipy", "matplotlib", "jinja2", "typer", "rich", "psutil")


@pytest.fixture(scope="module")
def result(swept: dict, place: Path) -> Path:
    """What a kit gives that is run where nothing but NumPy and onnxruntime can be imported."""
    files = [place / "out" / f"decay-{tol}.onnx" for tol in ("0.1", "0.01")]
    packed = call("kit", *files, "-o", place / "kit.zip", "--json")
    assert packed.exit_code == 0, packed.stderr
    assert json.loads(packed.stdout)["artefacts"] == [file.name for file in files]
    with zipfile.ZipFile(place / "kit.zip") as archive:
        archive.extractall(place / "device")
    site = place / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"import sys\nfor name in {BLOCKED!r}: sys.modules[name] = None\n"
    )
    done = subprocess.run(
        [sys.executable, "run.py", "--device", "box", "--seconds", "0.5", "--batch", "1",
         "--batch", "4"],
        cwd=place / "device", capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return place / "device" / "result.json"


def test_a_kit_measures_on_a_bare_device(result: Path) -> None:
    found = devices.read(result)
    assert found.device == "box"
    assert {row.status for row in found.rows} == {"measured"}
    assert {row.batch for row in found.rows} == {1, 4}
    for row in found.rows:
        assert row.device == "box"
        assert row.rounds >= 7
        assert row.latency_interval_ms is not None
        assert row.promise
    answers = json.loads(result.read_text())
    opened = [line["facts"] for line in answers["lines"] if line["kind"] == "opened"]
    assert all(facts["golden_error"] <= facts["golden_tolerance"] for facts in opened)


def test_results_join_the_plot(result: Path, place: Path) -> None:
    shutil.copytree(place / "out", place / "joined")
    joined = call("profile", "--merge", result, "-o", place / "joined", "--json")
    assert joined.exit_code == 0, joined.stderr
    data = json.loads(joined.stdout)
    profile = Profile.from_json({k: v for k, v in data.items() if k != "files"})
    assert devices.merged(profile, [devices.read(result)]) == profile  # in place of the first
    box = [row for row in profile.rows if row.device == "box"]
    assert len(box) == len(devices.read(result).rows)
    assert all(row.model.endswith("decay.py:build") for row in box)
    assert any(row.pareto for row in box)
    assert "box" in profile.devices
    page = (place / "joined" / "report.html").read_text()
    assert "cpu-1t of box" in page


def test_a_meter_beside_a_device(result: Path, place: Path) -> None:
    """Ten watts over the whole day, told in the time of Tokyo."""
    began = min(row.began for row in devices.read(result).rows)
    zone = timezone(timedelta(hours=9))
    times = [datetime.fromtimestamp(began + k, zone).isoformat() for k in range(-10, 600)]
    file = place / "meter.csv"
    file.write_text("time,watts\n" + "".join(f"{t},10\n" for t in times))
    metered = call("profile", "--merge", result, "--meter", f"box={file}", "-o", place / "metered",
                   "--json")  # fmt: skip
    assert metered.exit_code == 0, metered.stderr
    found = json.loads(metered.stdout)
    assert not found["warnings"]
    for row in found["rows"]:
        assert row["energy_mj"] == row["energies_mj"]["meter"]
        assert row["energy_mj"] > 0.5 * 10 * row["latency_ms"]["p50"]
    others = devices.read(result, {"pi": file}).rows
    assert all("meter" not in row.energies_mj for row in others)
    (said,) = meter.lacking(others, {"pi": file})
    assert "covers 0 of 0 rows" in said


def test_a_kit_checks_answers_and_measures_nothing(
    result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = result.parent
    done = subprocess.run(
        [sys.executable, "run.py", "--check", "-o", "answers.json"], cwd=folder,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = json.loads((folder / "answers.json").read_text())["answers"]
    assert [a["file"] for a in answers] == ["decay-0.1.onnx", "decay-0.01.onnx"]
    assert all(a["passed"] and a["error"] <= a["tolerance"] for a in answers)
    assert done.stdout.count("right, largest difference") == 2

    def wrong(model: object) -> GoldenCheck:
        return GoldenCheck(np.array([0.0, 0.5]), 0.1)

    monkeypatch.setattr(kit_run, "check_golden", wrong)
    monkeypatch.setattr(sys, "argv", [str(folder / "run.py")])
    assert kit_run.main(["--check", "-o", str(folder / "wrong.json")]) == 1
    told = json.loads((folder / "wrong.json").read_text())["answers"]
    assert all(not a["passed"] and a["error"] == 0.5 for a in told)


def test_a_kit_takes_the_quota_along(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = targets.find("cpu-half")
    several = [targets.find("cpu-1t"), half, replace(half, name="again")]
    packing.pack([result.parent / "artefacts" / "decay-0.1.onnx"], tmp_path / "kit.zip", several)
    with zipfile.ZipFile(tmp_path / "kit.zip") as archive:
        archive.extractall(tmp_path)
    asked: dict[str, Any] = {}

    class Asked:
        def __init__(self, requests: dict[str, Any], *_: object) -> None:
            asked.update(requests)

        def run(self, heats: object) -> None:
            pass

    monkeypatch.setattr(kit_run, "Sweep", Asked)
    found = kit_run.measured(tmp_path, kit_run._parser().parse_args([]))
    assert [request["quota"] for request in asked.values()] == [None, 0.5]
    assert [job["quota"] for job in found["jobs"].values()] == [None, 0.5]


def test_nothing_is_timed_under_an_emulator(
    result: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert machine.emulator() is None
    monkeypatch.setattr(machine, "emulator", lambda: "qemu-aarch64-static")
    done = call("profile", result.parent / "artefacts" / "decay-0.1.onnx", "--target", "cpu-1t",
                "-o", result.parent / "emulated")  # fmt: skip
    assert done.exit_code == 3 and "qemu-aarch64-static" in done.stderr
    monkeypatch.setattr(sys, "argv", [str(result.parent / "run.py")])
    assert kit_run.main(["-o", str(result.parent / "emulated.json")]) == 3
    assert "--check" in capsys.readouterr().err
    assert not (result.parent / "emulated.json").exists()


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"result": "odedeploy kit result 1"}'])
def test_what_is_no_result_is_refused(tmp_path: Path, damage: str) -> None:
    (tmp_path / "r.json").write_text(damage)
    done = call("profile", "--merge", tmp_path / "r.json", "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "no result of a kit" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_damaged_kit_says_so(result: Path, place: Path) -> None:
    folder = place / "damaged"
    shutil.copytree(place / "device", folder)
    (folder / "artefacts" / "decay-0.1.onnx").write_bytes(b"else")
    done = subprocess.run(
        [sys.executable, "run.py", "-o", "new.json"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "decay-0.1.onnx is damaged" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "new.json").exists()


@pytest.mark.parametrize(
    ("files", "words"),
    [((), ""), (("no.onnx",), "no.onnx"), (("x.pt",), "ONNX"), (("a/x.onnx", "b/x.onnx"), "Two")],
)
def test_a_kit_of_nothing_good_is_refused(
    tmp_path: Path, files: tuple[str, ...], words: str
) -> None:
    done = call("kit", *(tmp_path / file for file in files), "-o", tmp_path / "kit.zip")
    assert done.exit_code == 2
    assert words in done.stderr
    assert not (tmp_path / "kit.zip").exists()


# ssh

FAKES = {
    "ssh": 'for last; do :; done\nexec sh -c "$last"\n',
    "python3": f'exec {sys.executable} "$@"\n',
}


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ssh that reaches this machine."""
    for name, code in FAKES.items():
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{code}")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def over_ssh(place: Path, folder: Path, host: str, *more: str):
    file = place / "out" / "decay-0.01.onnx"
    return call("profile", file, "--target", "cpu-1t", "--seconds", "0.3", "--ssh", host, "-o",
                folder, "--json", *more)  # fmt: skip


def test_over_ssh(swept: dict, place: Path, there: Path) -> None:
    done = over_ssh(place, there / "out", "pi=me@there")
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [(row["device"], row["status"], row["target"]) for row in rows] == [
        ("", "measured", "cpu-1t"), ("pi", "measured", "cpu-1t")
    ]  # fmt: skip
    assert not list(there.glob("tmp.*"))
    for fake in FAKES:
        (there / "bin" / fake).write_text("#!/bin/sh\nexit 9\n")
    again = over_ssh(place, there / "out", "pi=me@there", "--resume")
    assert json.loads(again.stdout)["rows"] == rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fake", "code", "words"),
    [
        ("ssh", "echo Permission denied. >&2; exit 255", "Permission denied."),
        ("ssh", "echo Welcome to the box", "made no folder"),
        ("python3", "echo no numpy >&2; exit 1", "ended with 1"),
    ],
)
def test_a_host_that_fails_costs_one_row(
    swept: dict, place: Path, there: Path, fake: str, code: str, words: str
) -> None:
    (there / "bin" / fake).write_text(f"#!/bin/sh\n{code}\n")
    done = over_ssh(place, there / "out", "me@there")
    assert done.exit_code == 0, done.stderr
    here, lost = json.loads(done.stdout)["rows"]
    assert here["status"] == "measured"
    assert (lost["device"], lost["status"]) == ("there", "unusable")
    assert words in lost["reason"]


@pytest.mark.parametrize(
    "host", ["-oProxyCommand=touch x", "a=-oProxyCommand", "", "a b", "a:port", "a;b", "x="]
)
def test_a_host_that_is_none_is_refused(tmp_path: Path, host: str) -> None:
    done = call("profile", tmp_path / "x.onnx", "--ssh", host, "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "--ssh takes" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("sshd", path="/usr/sbin:/usr/bin"), reason="no sshd here")
def test_over_a_real_ssh(
    swept: dict, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of our own on this machine, with keys of its own."""
    for key in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / key], check=True
        )
    shutil.copy(tmp_path / "user.pub", tmp_path / "authorized")
    server = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    Path("/run/sshd").mkdir(exist_ok=True)
    port = 20_000 + os.getpid() % 20_000
    daemon = subprocess.Popen(
        [str(server), "-D", "-e", "-f", "/dev/null", "-p", str(port), "-h", tmp_path / "host",
         "-o", f"AuthorizedKeysFile={tmp_path / 'authorized'}", "-o", "StrictModes=no",
         "-o", "ListenAddress=127.0.0.1", "-o", "PidFile=none"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        (tmp_path / "bin").mkdir()
        extra = (
            f"-i {tmp_path / 'user'} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no "
            "-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        )
        real = tmp_path / "bin" / "ssh"
        real.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {extra} "$@"\n')
        real.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        time.sleep(1.0)
        done = over_ssh(
            place, tmp_path / "out", f"real=127.0.0.1:{port}#{sys.executable}"
        )
        assert done.exit_code == 0, done.stderr
        rows = json.loads(done.stdout)["rows"]
        assert [(r["device"], r["status"], r["reason"]) for r in rows] == [
            ("", "measured", ""), ("real", "measured", "")
        ]  # fmt: skip
    finally:
        daemon.terminate()
        daemon.wait()


# Slow: the whole command, killed; two runs of one sweep


@pytest.mark.slow
@pytest.mark.parametrize("wait_for", ["artefact", "round"])
def test_kill_in_the_middle_then_resume(place: Path, tmp_path: Path, wait_for: str) -> None:
    out = tmp_path / "out"
    arguments = [
        "profile", f"{place}/decay.py:build", *OPTIONS, "--tol", "1e-1", "--tol", "1e-2", "--tol",
        "1e-3", "-o", str(out),
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "odedeploy", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    journal, end = out / "sweep.jsonl", time.monotonic() + 120
    while time.monotonic() < end and (
        not journal.exists() or journal.read_text().count(f'"kind": "{wait_for}"') < 2
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = journal.read_text().splitlines()[:-1]
    stamps = {p: p.stat().st_mtime_ns for p in (out / "plans").iterdir()}
    done = call(*arguments, "--resume", "--json")
    assert done.exit_code == 0, done.stderr
    assert [row["status"] for row in json.loads(done.stdout)["rows"]] == ["measured"] * 3
    after = [json.loads(line) for line in journal.read_text().splitlines()]
    assert after[: len(before)] == [json.loads(line) for line in before]
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    rounds = [(x["job"], x["round"]) for x in after if x["kind"] == "round"]
    assert len(rounds) == len(set(rounds))
    made = [x["file"] for x in after if x["kind"] == "artefact"]
    assert len(made) == len(set(made)) == 3


@pytest.mark.slow
def test_two_runs_agree_on_sure_marks(swept: dict, place: Path, tmp_path: Path) -> None:
    files = sorted((place / "out").glob("decay-*.onnx"))
    runs = []
    for name in ("first", "second"):
        done = call("profile", *files, "--target", "cpu-1t", "--target", "cpu", "--seconds", "6",
                    "-o", tmp_path / name, "--json")  # fmt: skip
        assert done.exit_code == 0, done.stderr
        runs.append(json.loads(done.stdout)["rows"])
    for one, two in zip(*runs, strict=True):
        if one["pareto_sure"] and two["pareto_sure"]:
            assert one["pareto"] is two["pareto"], (one["file"], one["target"])
