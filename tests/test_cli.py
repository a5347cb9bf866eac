"""The command line: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import odedeploy
from odedeploy import errors, models, solvers, targets
from odedeploy.cli import app, doctor, extras, output

HERE = Path(__file__).parent
SUFFIXES = (".onnx", ".pt")
TOL = "1e-2"


def call(*arguments: str | Path):
    """The command line, in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def only_json(stdout: str) -> dict:
    """The one JSON object on stdout."""
    found = json.loads(stdout)
    assert isinstance(found, dict)
    assert stdout.count("\n") == 1
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the model file and some inputs."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copy(HERE / "user_model.py", folder / "mine.py")
    rows = np.random.default_rng(1).normal(size=(400, 2)).astype(np.float32)
    np.savez(folder / "x.npz", x=rows)
    np.savez(folder / "misnamed.npz", y=rows)
    np.savez(folder / "wrong.npz", x=rows[:, :1])
    np.savez(folder / "empty.npz", x=rows[:0])
    (folder / "no.onnx").write_text("not a model")
    (folder / "no.npz").write_text("not an archive")
    (folder / "no.pt").write_text("not a model")
    return folder


@pytest.fixture
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module", params=SUFFIXES)
def exported(request: pytest.FixtureRequest, folder: Path, python):
    """A user's model, exported by a real process with ``--json``; the model prints, too."""
    name = f"made{request.param}"
    done = python(
        "-m", "odedeploy", "export", "mine.py:talkative", "--tol", TOL, "-o", name, "--json",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(path=folder / name, stdout=done.stdout, stderr=done.stderr)


def test_export_json_is_alone_on_stdout(exported) -> None:
    made = only_json(exported.stdout)
    assert made["tol"] == float(TOL)
    assert made["kept"] is True
    assert made["error"]["bound"] <= float(TOL)
    assert made["export_error"] <= 1e-5
    assert made["plan"]["nfe"] == sum(site["nfe"] for site in made["plan"]["sites"]) > 0
    assert {"capture", "reference", "search", "lower", "verify"} <= set(made["seconds"])
    assert made["bytes"] == exported.path.stat().st_size
    assert "the factory's own" in exported.stderr
    assert "the model's own" in exported.stderr


def test_export_writes_the_file_and_its_manifest_only(exported, folder: Path) -> None:
    beside = exported.path.with_name(f"{exported.path.name}.json")
    assert json.loads(beside.read_text()) == json.loads(exported.stdout)
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def test_inspect_tells_what_export_told(exported) -> None:
    result = call("inspect", exported.path, "--json")
    assert result.exit_code == 0
    assert only_json(result.stdout) == json.loads(exported.stdout)
    shown = call("inspect", exported.path).stdout
    made = json.loads(exported.stdout)
    for words in (made["plan"]["solver"], made["promise"], made["sha256"], "x float32 (batch, 2)"):
        assert words in shown


def test_verify_against_golden_outputs(exported) -> None:
    result = call("verify", exported.path, "--json")
    report = only_json(result.stdout)
    assert (result.exit_code, report["passed"], report["failures"]) == (0, True, [])
    assert "keeps" in call("verify", exported.path).stdout


def test_verify_against_the_model_it_was_made_from(exported, there: Path) -> None:
    result = call("verify", exported.path, "--against", "mine.py:build", "--json")
    report = only_json(result.stdout)
    assert (result.exit_code, report["passed"]) == (0, True)
    assert report["error"] <= float(TOL)


def test_verify_against_another_model_falls_short(exported, there: Path) -> None:
    result = call("verify", exported.path, "--against", "mine.py:other", "--json")
    report = only_json(result.stdout)
    assert (result.exit_code, report["passed"]) == (1, False)
    assert report["failures"]
    for failure in report["failures"]:
        assert failure in result.stderr


def test_export_for_people(there: Path) -> None:
    result = call(
        "export", "mine.py:without_inputs", "--inputs", "x.npz", "--tol", TOL, "-o", "people.pt",
        "--solver", "rk4", "--nfe", "8", "--samples", "60",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    made = json.loads((there / "people.pt.json").read_text())
    assert (made["plan"]["solver"], made["plan"]["nfe"]) == ("rk4", 8)
    assert made["format"] == "torchscript"
    for words in ("rk4", made["promise"], "Wrote people.pt", "odedeploy verify people.pt"):
        assert words in result.stdout
    assert result.stderr.strip() == made["promise"]  # told before the work: too few inputs


def test_too_few_inputs_say_what_is_promised_instead(there: Path) -> None:
    result = call("export", "mine.py:few", "--tol", TOL, "-o", "few.pt", "--json")
    assert result.exit_code == 0, result.stderr
    made = only_json(result.stdout)
    assert made["error"]["coverage"] < 0.99
    assert f"{100 * made['error']['coverage']:.2g}" in made["promise"]
    assert "0.99" in made["promise"] or "99 %" in made["promise"]


def test_best_effort_is_written_and_marked(there: Path) -> None:
    arguments = ("mine.py:build", "--tol", "1e-7", "--solver", "euler", "--nfe", "1")
    result = call("export", *arguments, "-o", "best.pt", "--best-effort", "--json")
    assert result.exit_code == 0, result.stderr
    made = only_json(result.stdout)
    assert made["kept"] is False
    assert made["error"]["max"] > 1e-7
    assert "not kept" in call("inspect", there / "best.pt").stdout


def test_profile_of_a_file_and_a_model(exported, there: Path, tmp_path: Path) -> None:
    if exported.path.suffix != ".onnx":
        pytest.skip("the targets run ONNX files")
    arguments = ("--tol", "1e-1", "--target", "cpu-1t", "--seconds", "0.5", "-o", tmp_path / "out")
    result = call("profile", exported.path, "mine.py:build", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found = only_json(result.stdout)
    assert [row["status"] for row in found["rows"]] == ["measured"] * 2
    assert [row["tol"] for row in found["rows"]] == [float(TOL), 1e-1]
    assert any(row["pareto"] for row in found["rows"])
    assert len(found["baselines"]) == 1
    assert all(Path(path).is_file() for path in found["files"].values())
    shown = call("profile", exported.path, *arguments)
    assert shown.exit_code == 0, shown.stderr
    for words in ("★", "cpu-1t", "pareto.png", "report.html"):
        assert words in shown.stdout


def test_profile_of_several_precisions(there: Path, tmp_path: Path) -> None:
    result = call(
        "profile", "mine.py:build", "--tol", "1e-1", "--target", "cpu-1t", "--seconds", "0.5",
        "--precision", "fp32", "--precision", "fp16", "--solver", "rk4", "-o", tmp_path / "out",
        "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    rows = only_json(result.stdout)["rows"]
    assert [(row["precision"], row["status"]) for row in rows] == [
        ("fp32", "measured"), ("fp16", "measured")
    ]  # fmt: skip
    assert {path.suffix for path in (tmp_path / "out").glob("*fp16*")} == {".onnx", ".json"}


LISTS = {
    "models": models.MODELS,
    "solvers": solvers.SOLVERS,
    "targets": targets.TARGETS,
}


@pytest.mark.parametrize("command", LISTS)
def test_lists_are_the_tables(command: str) -> None:
    result = call(command, "--json")
    assert [entry["name"] for entry in only_json(result.stdout)[command]] == list(LISTS[command])
    shown = call(command)
    assert (result.exit_code, shown.exit_code, result.stderr, shown.stderr) == (0, 0, "", "")
    assert all(name in shown.stdout for name in LISTS[command])


def test_solvers_cost_what_they_say() -> None:
    for entry in only_json(call("solvers", "--json").stdout)["solvers"]:
        method = solvers.SOLVERS[entry["name"]]
        cost = entry["evaluations_to_start"] + 5 * entry["evaluations_per_step"]
        assert cost == method.evaluations(5)
        assert all(solvers.TORCHDIFFEQ[name] == method.name for name in entry["torchdiffeq"])


def test_doctor_looks_at_this_machine() -> None:
    found = only_json(call("doctor", "--json").stdout)
    versions = {package["name"]: package["version"] for package in found["packages"]}
    assert versions["numpy"] == np.__version__
    assert versions == targets.environment().versions
    assert "CPUExecutionProvider" in found["providers"]
    told = {t["name"]: t["reason"] for t in found["targets"]}
    assert told == {name: targets.usable(targets.find(name)) for name in targets.names()}
    assert told["cpu"] is None and told["cpu-1t"] is None
    shown = call("doctor").stdout
    assert "numpy" in shown and np.__version__ in shown


@pytest.mark.parametrize(
    ("missing", "present", "advice"),
    [
        ("torch", (), "pip install 'odedeploy[export]'"),
        ("onnxruntime", (), "pip install 'odedeploy[cpu]'"),
        ("onnxruntime", ("onnxruntime-gpu",), None),
        ("onnxruntime-gpu", ("onnxruntime",), None),
        ("numpy", (), "pip install odedeploy"),
        ("torch", ("torch",), None),
    ],
)
def test_doctor_never_advises_both_runtimes(
    missing: str, present: tuple[str, ...], advice: str | None
) -> None:
    names = ("torch", "numpy", "onnxruntime", "onnxruntime-gpu")
    versions = {name: "1.0" if name in present else None for name in names}
    assert doctor._advice(missing, versions) == advice


def test_every_package_that_doctor_names_has_an_extra() -> None:
    for package in targets.environment().versions:
        assert extras.advice(package) is not None
    assert extras.advice("onnx_ir") == "pip install 'odedeploy[export]'"
    assert extras.advice("not_ours") is None


def export(model: str, *more: str, tol: str = TOL) -> tuple[str, ...]:
    return ("export", model, "--tol", tol, "-o", "out/m.pt", *more)


BAD = [
    (export("mnist-odente"), 2, "no model 'mnist-odente'.*did you mean 'mnist-odenet'"),
    (export("mine.py"), 2, "no model 'mine.py'.*file.py:callable"),
    (export("nowhere.py:build"), 2, "nowhere.py does not exist"),
    (export("mine.py:biuld"), 2, "has no 'biuld'"),
    (export("mine.py:number"), 2, "is a int"),
    (export("nopackage.nomodule:build"), 2, "cannot be imported"),
    (export("mine.py:raises"), 2, r"raised RuntimeError \(no such checkpoint\)"),
    (export("mine.py:text"), 2, "returned a str"),
    (export("mine.py:without_inputs"), 2, "--inputs"),
    (export("mine.py:build", "--solver", "rk5"), 2, "no solver 'rk5': did you mean 'rk4'"),
    (export("mine.py:build", "--target", "gpu"), 2, "no target 'gpu'.*cpu-1t"),
    (export("mine.py:build", "--format", "onx"), 2, "no format 'onx': did you mean 'onnx'"),
    (export("mine.py:build", "--form", "lop"), 2, "no form 'lop'.*unrolled"),
    (export("mine.py:build", "--precision", "int3"), 2, "no precision 'int3'.*fp32"),
    (export("mine.py:build", "--metric", "taste"), 2, "no metric 'taste'.*output"),
    (export("mine.py:build", tol="0"), 2, "positive.*got 0"),
    (export("mine.py:build", tol="nan"), 2, "positive.*got nan"),
    (export("mine.py:build", "--tol", "1e-3"), 2, "exactly one tolerance without a name"),
    (export("mine.py:build", tol="small"), 2, "could not convert .* give a number"),
    (export("mine.py:build", "--coverage", "1"), 2, "--coverage.*between 0 and 1"),
    (export("mine.py:build", "--nfe", "0"), 2, "--nfe must be at least 1"),
    (export("mine.py:build", "--static", "z"), 2, "--static names z; the inputs are x"),
    (export("mine.py:build", "--inputs", "gone.npz"), 2, "gone.npz do not exist"),
    (export("mine.py:build", "--inputs", "no.npz"), 2, "no.npz cannot be read"),
    (export("mine.py:build", "--inputs", "misnamed.npz"), 2, "no input y; its inputs are x"),
    (export("mine.py:build", "--inputs", "wrong.npz"), 2, "."),
    (export("mine.py:build", "--inputs", "empty.npz"), 2, "one or more rows"),
    (export("mine.py:build", "--weights", "gone.pt"), 2, "gone.pt do not exist"),
    (export("mine.py:build", "--weights", "no.pt"), 2, "no.pt do not fit"),
    (export("mine.py:two"), 2, "At least 3 inputs.*got 2"),
    (export("mine.py:nan"), 2, "'x' holds NaN in row 5"),
    (export("mine.py:other_shape"), 2, "shape"),
    (export("mine.py:diverging"), 2, "diverge|finite"),
    (export("mine.py:build", "-o", "out/m.exe"), 2, "no known suffix.*onnx"),
    (export("mine.py:build", "-o", "out/none/m.pt"), 2, "out/none does not exist"),
    (export("mine.py:build", "--solver", "euler", "--nfe", "1", tol="1e-7"), 1, "tolerance"),
    (("profile", "mine.py:build", "--tol", "-1", "-o", "out"), 2, "positive.*got -1"),
    (("profile", "mine.py:build", "--target", "cpu1", "-o", "out"), 2, "no target 'cpu1'"),
    (("profile", "no.onnx", "-o", "out"), 2, "no.onnx"),
    (("profile", "out/gone.onnx", "-o", "out"), 2, "gone.onnx"),
    (("verify", "no.onnx"), 2, "no.onnx"),
    (("verify", "no.pt"), 2, "no.pt"),
    (("verify", "out/gone.onnx"), 2, "gone.onnx"),
    (("verify", "no.onnx", "--inputs", "x.npz"), 2, "--against"),
    (("inspect", "no.onnx"), 2, "no.onnx"),
    (("inspect", "mine.py"), 2, "no known suffix"),
    (("train", "mnist-odente", "-o", "out/t"), 2, "did you mean 'mnist-odenet'"),
    (("train", "mnist-odenet", "--device", "tpu", "-o", "out/t"), 2, "no device 'tpu'"),
    (("train", "mnist-odenet", "--data", "out", "-o", "out"), 2, "out holds no train-images"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "code", "words"), BAD, ids=lambda v: " ".join(v)[:60]
                         if isinstance(v, tuple) else "")  # fmt: skip
def test_bad_input(line: tuple[str, ...], code: int, words: str, there: Path) -> None:
    (there / "out").mkdir(exist_ok=True)
    result = call(*line, "--json")
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    message = result.stderr.strip()
    assert re.search(words, message)
    assert "\n" not in message
    error = only_json(result.stdout)["error"]
    assert error["message"] == message
    assert error["exit_code"] == code == getattr(errors, error["kind"]).exit_code
    assert os.listdir(there / "out") == []


@pytest.mark.parametrize(
    "line",
    [
        ("exprot",),
        ("export",),
        ("export", "mine.py:build", "-o", "m.pt"),
        ("verify", "m.onnx", "--fast"),
        ("train",),
    ],
)
def test_usage(line: tuple[str, ...]) -> None:
    result = call(*line)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage" in result.stderr
    result = call(*line, "--json")
    assert result.exit_code == 2
    assert only_json(result.stdout)["error"]["exit_code"] == 2


def test_nothing_is_overwritten_by_a_failed_run(there: Path) -> None:
    (there / "kept.pt").write_text("mine")
    assert call("export", "mine.py:raises", "--tol", TOL, "-o", "kept.pt").exit_code == 2
    assert (there / "kept.pt").read_text() == "mine"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("odedeploy.api.inspect", broken)
    assert isinstance(call("inspect", "m.onnx").exception, ZeroDivisionError)


@pytest.mark.parametrize("family", [errors.FellShort, errors.Unusable, errors.Crashed])
def test_exit_codes_are_the_family_s(monkeypatch: pytest.MonkeyPatch, family) -> None:
    def fail(path: Path) -> None:
        raise family("It went wrong, so do this.")

    monkeypatch.setattr("odedeploy.api.inspect", fail)
    result = call("inspect", "m.onnx")
    assert (result.exit_code, result.stdout) == (family.exit_code, "")
    assert result.stderr == "It went wrong, so do this.\n"


WITHOUT = """
import sys

class Missing:
    def find_spec(name, path, target=None):
        if name == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing)
from odedeploy.cli import app
app({line})
"""
"""A command line where a package is not installed."""


@pytest.mark.parametrize(
    ("missing", "extra", "line"),
    [
        ("torch", "export", ("export", "m.py:b", "--tol", "1e-2", "-o", "m.onnx")),
        ("onnxruntime", "cpu", ("verify", "made.onnx")),
        ("torchdiffeq", "export", ("train", "mnist-odenet")),
    ],
)
def test_a_missing_dependency_is_named_with_its_extra(
    missing: str, extra: str, line: tuple[str, ...], tmp_path: Path, python
) -> None:
    (tmp_path / "made.onnx").write_bytes(b"")
    done = python("-c", WITHOUT.format(missing=missing, line=line), cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert missing in done.stderr and f"odedeploy[{extra}]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_leaves_nothing(folder: Path, number: int, code: int) -> None:
    started = folder / "started"
    started.unlink(missing_ok=True)
    before = set(os.listdir(folder))
    arguments = ("export", "mine.py:waiting", "--tol", TOL, "-o", "stopped.onnx")
    with subprocess.Popen(
        [sys.executable, "-m", "odedeploy", *arguments], cwd=folder, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job may ignore it
    ) as running:  # fmt: skip
        deadline = time.monotonic() + 120
        while not started.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(number)
        _, stderr = running.communicate(timeout=60)
    assert running.returncode == code
    assert b"Traceback" not in stderr
    assert set(os.listdir(folder)) - before == {"started"}


def test_stopping_while_verifying_removes_the_draft(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        assert os.listdir(tmp_path)
        raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("odedeploy.delivery.verify", stop)
    before = set(os.listdir(there))
    result = call("export", "mine.py:build", "--tol", TOL, "-o", "draft.pt")
    assert (result.exit_code, result.stderr) == (130, "Stopped.\n")
    assert os.listdir(tmp_path) == []
    assert set(os.listdir(there)) == before


def test_train_reports_and_says_what_it_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def train(name, *, report, **options):
        from odedeploy.models.tasks import Progress

        asked.update(options, name=name)
        for held_out in (None, {"accuracy": 0.875}):
            right = {"accuracy": 0.75}
            report(Progress(1, 2, 20, 40, 1e-5, 1e-5, 0.5, right, 26.0, 31.0, 3.0, held_out))
        card = {"test": {}, "held_out": {"accuracy": 0.875}, "parameters": 1234}
        return SimpleNamespace(
            checkpoint=Path("a.ckpt"), weights=Path("a.safetensors"), card_file=Path("a.json"),
            card=card,
        )  # fmt: skip

    monkeypatch.setattr(models, "train", train)
    result = call("train", "mnist-odenet", "--epochs", "2", "--seed", "3", "--fresh")
    assert result.exit_code == 0, result.exception
    assert asked == {
        "name": "mnist-odenet", "folder": Path("runs/mnist-odenet"), "data": None, "seed": 3,
        "epochs": 2, "device": "auto", "fresh": True, "regularise": (), "tolerance": None,
        "adjoint_tolerance": None, "gradient_error": 0.0, "checkpoints": 0,
    }  # fmt: skip
    for words in ("loss 0.5000", "accuracy 0.7500", "26 forward, 31 backward", "held out"):
        assert words in result.stderr
    for words in ("accuracy 0.8750 on the held-out data", "1,234 parameters", "a.safetensors"):
        assert words in result.stdout
    found = only_json(call("train", "mnist-odenet", "--json").stdout)
    assert (found["weights"], found["card"]["parameters"]) == ("a.safetensors", 1234)


def test_version(python) -> None:
    assert call("--version").stdout == f"odedeploy {odedeploy.__version__}\n"
    done = python("-m", "odedeploy", "--version")
    assert done.stdout == f"odedeploy {odedeploy.__version__}\n"


def test_help_starts_at_once(python) -> None:
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python("-m", "odedeploy", "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) <= 0.3


@pytest.mark.parametrize(
    ("count", "words"),
    [(None, ""), (12, "12 bytes"), (834_976, "835 kB"), (1_200_000, "1.2 MB"), (3e9, "3 GB")],
)
def test_sizes(count: int | None, words: str) -> None:
    assert output.size(count) == words


def test_json_has_no_numbers_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit({"a": [float("inf"), float("nan"), 1.5], "b": (1,), 3: None})
    assert json.loads(capsys.readouterr().out) == {"a": [None, None, 1.5], "b": [1], "3": None}
