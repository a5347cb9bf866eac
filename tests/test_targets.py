from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from patterns import PATTERNS
from typer.testing import CliRunner

from odedeploy import api, fastest, formats, targets
from odedeploy.cli import app
from odedeploy.errors import BadInput, UnknownName, Unusable
from odedeploy.frontends.loading import Loaded
from odedeploy.profiling import openers
from odedeploy.spec import ExportSpec
from odedeploy.targets import installation


@pytest.mark.parametrize("name", targets.TARGETS)
def test_every_target_is_named_as_in_the_table_and_usable_or_says_why_not(name: str) -> None:
    target = targets.find(name)
    assert target.name == name
    assert target.description
    assert formats.find(target.format).name == target.format
    assert target.runtime in openers.OPENERS
    reason = targets.usable(target)
    if reason is not None:
        advice = (
            "pip install 'odedeploy[", "C++ compiler", "control group", "npm install", "Node.js",
            "Chromium",
        )  # fmt: skip
        assert any(each in reason for each in advice)
    if name in ("cpu", "cpu-1t", "torchscript", "torchscript-1t"):
        assert reason is None


@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_target_and_its_format_agree_on_options(name: str, tmp_path: Path) -> None:
    """An option that the format does not have would be refused before the file is looked at."""
    target = targets.find(name)
    with pytest.raises((BadInput, Unusable)) as caught:
        formats.find(target.format).open(tmp_path / "missing", target.threads, target.opening)
    assert "option" not in str(caught.value)


@pytest.mark.parametrize("name", ["cuda", "cuda-graph", "tensorrt"])
def test_a_gpu_that_is_missing_ends_an_export_with_3(name: str, tmp_path: Path) -> None:
    if targets.usable(targets.find(name)) is None:
        pytest.skip("there is a GPU")
    file = tmp_path / "m.onnx"
    arguments = ["export", "mnist-odenet", "--tol", "1e-1", "-o", str(file), "--target", name]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 3 and "onnxruntime lacks" in done.output
    assert "odedeploy[gpu]" in done.output and not list(tmp_path.iterdir())


def test_a_target_of_another_format_is_refused(tmp_path: Path) -> None:
    spec = ExportSpec(tol=0.1, format="torchscript", target="cpu-1t")
    with pytest.raises(BadInput, match="'cpu-1t' runs onnx, not torchscript.*[.]onnx"):
        api.check_target(spec)
    api.check_target(replace(spec, target="torchscript-1t"))


def test_a_target_from_a_toml_file(tmp_path: Path) -> None:
    file = tmp_path / "board.toml"
    file.write_text('base = "cpu-1t"\nthreads = 3\nbatch = 8\n[options]\nspinning = false\n')
    target = targets.find(str(file))
    assert (target.name, target.format, target.threads, target.batch) == ("board", "onnx", 3, 8)
    assert target.opening == {"providers": ["CPUExecutionProvider"], "spinning": False}
    assert targets.usable(target) is None and "board.toml" in target.description
    file.write_text('threads = "all"\nquota = 1\n')
    assert (targets.find(str(file)).threads, targets.find(str(file)).quota) == (None, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("threads = 0", "at least 1"),
        ('threads = "two"', "whole number"),
        ("batch = true", "whole number"),
        ("quota = true", "give a number"),
        ('quota = "half"', "give a number"),
        ("quota = 0", "quota of at least 0.01 CPUs, got 0"),
        ("quota = inf", "got inf"),
        ('providers = "CPU"', "list"),
        ("thread = 2", "field 'thread'"),
        ("= 2", "no TOML file"),
        ('base = "cpu2"', "did you mean 'cpu'"),
    ],
)
def test_a_bad_toml_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "t.toml"
    file.write_text(text)
    with pytest.raises(BadInput, match=says):
        targets.find(str(file))
    with pytest.raises(BadInput, match="cannot be read"):
        targets.find(str(tmp_path / "missing.toml"))


def test_a_target_from_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "mine": EntryPoint("mine", "odedeploy.targets.cpu_1t:TARGET", targets.GROUP),
        "wrong": EntryPoint("wrong", "odedeploy.targets:GROUP", targets.GROUP),
    }
    monkeypatch.setattr(targets, "_added", lambda: points)
    assert targets.find("mine") is targets.find("cpu-1t")
    assert targets.names()[-2:] == ("mine", "wrong")
    with pytest.raises(BadInput, match="gives a str"):
        targets.find("wrong")


def test_a_missing_package_and_compiler_make_a_target_unusable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = replace(targets.find("openvino"), packages=("no-such-runtime",))
    assert "pip install 'odedeploy[openvino]'" in str(targets.usable(target))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in str(targets.usable(targets.find("torch-compile")))


def test_the_fastest_target_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastest, "SECONDS", 0.3)
    monkeypatch.setattr(targets, "TARGETS", {
        name: targets.TARGETS[name] for name in ("cpu", "cpu-1t", "torchscript-1t", "cuda")
    })  # fmt: skip
    model, tensors = PATTERNS["adjoint"]()
    rows = {name: np.repeat(t.numpy(), 4, axis=0) for name, t in tensors.items()}
    loaded = Loaded("model", model, rows, frozenset(), "model", None)
    spec = ExportSpec(tol=0.2, format="auto", target="auto", solver="euler", confidence=0.5,
                      coverage=0.5)  # fmt: skip
    manifest = api.deploy(loaded, spec, tmp_path / "best")
    found = manifest.extra["targets"]
    assert {each["target"] for each in found} == {"cpu", "cpu-1t", "torchscript-1t"}
    (best,) = [each for each in found if each["verdict"] == "fastest"]
    assert best["latency_ms"] == min(each["latency_ms"] for each in found)
    assert (manifest.target, manifest.format) == (best["target"], best["format"])
    file = tmp_path / f"best{formats.find(manifest.format).suffix}"
    assert manifest.file == file.name and api.verify(file).passed
    assert api.inspect(file)["extra"]["targets"] == found
    assert sorted(tmp_path.iterdir()) == [file, file.with_name(file.name + ".json")]


def test_no_target_for_what_is_asked() -> None:
    with pytest.raises(Unusable, match="No target runs loop litert"):
        fastest.candidates(ExportSpec(tol=0.1, format="litert", target="auto", form="loop"))


def test_a_target_with_a_quota_is_not_tried_as_the_fastest() -> None:
    spec = ExportSpec(tol=0.1, format="auto", target="auto")
    found = fastest.candidates(spec)
    assert found and all(target.quota is None for target in found)


def test_the_two_cpu_targets_differ_in_threads_only() -> None:
    cpu, single = targets.find("cpu"), targets.find("cpu-1t")
    assert (cpu.threads, single.threads) == (None, 1)
    assert replace(single, name="cpu", threads=None, description=cpu.description) == cpu


def test_an_unknown_target_suggests_the_nearest() -> None:
    with pytest.raises(
        UnknownName, match=r"no target 'cpu-2t'.*did you mean 'cpu-1t'.*cpu, cpu-1t"
    ):
        targets.find("cpu-2t")


@pytest.mark.parametrize("change", [{"threads": 0}, {"batch": 0}, {"threads": -1}])
def test_a_target_without_threads_or_batch_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(BadInput, match="at least 1"):
        replace(targets.find("cpu"), **change)


def test_a_missing_provider_makes_a_target_unusable() -> None:
    target = replace(targets.find("cpu"), providers=("TensorrtExecutionProvider",))
    reason = targets.usable(target)
    assert reason is not None
    assert "TensorrtExecutionProvider" in reason
    assert "install" in reason


def test_a_missing_onnxruntime_makes_a_target_unusable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    reason = targets.usable(targets.find("cpu"))
    assert reason is not None
    assert "odedeploy[cpu]" in reason


def test_both_onnxruntimes_installed_is_a_problem() -> None:
    both = {"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.29.1"}
    (sentence,) = installation.conflicts(both.get)
    assert "1.30.0" in sentence
    assert "1.29.1" in sentence
    assert "uninstall both" in sentence
    for alone in both.items():
        assert installation.conflicts(dict([alone]).get) == ()


def test_the_environment_tells_versions_and_providers() -> None:
    import numpy as np

    seen = targets.environment()
    assert seen.versions["numpy"] == np.__version__
    assert seen.versions["torch"]
    assert "CPUExecutionProvider" in seen.providers
    assert seen.python == sys.version.split()[0]


def test_finding_a_target_loads_no_framework() -> None:
    code = (
        "import sys; from odedeploy import targets; [targets.find(n) for n in targets.TARGETS]; "
        "print(*{'numpy', 'onnxruntime', 'onnx', 'torch', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
