from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from odedeploy import targets
from odedeploy.errors import BadInput, UnknownName
from odedeploy.targets import installation


@pytest.mark.parametrize("name", targets.TARGETS)
def test_every_target_is_named_as_in_the_table_and_usable_here(name: str) -> None:
    target = targets.find(name)
    assert target.name == name
    assert target.description
    assert targets.usable(target) is None


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
