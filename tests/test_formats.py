from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnxfiles import WEIGHT, linear, save
from patterns import PATTERNS

from odedeploy import formats
from odedeploy.errors import BadInput, Crashed, UnknownName
from odedeploy.formats import FORMATS, SUFFIXES
from odedeploy.frontends import capture
from odedeploy.graph import OdeGraph, input_specs, output_specs
from odedeploy.grid import Grid
from odedeploy.program import Plan, solve_plan
from odedeploy.runtime import GOLDEN, GRAPH, Golden, load
from odedeploy.solvers import SOLVERS
from odedeploy.verification import check_golden, golden, verify

MODELS = ("adjoint", "two_inputs", "nonuniform_trajectory", "convolution_with_norm_and_dropout")
PRIVATE = (b"/work", b"/home", b"/tmp", b"site-packages", b'.py"', __file__.encode())


class Case:
    """A captured model with a plan, its inputs and the plan's outputs in PyTorch."""

    def __init__(self, name: str) -> None:
        model, tensors = PATTERNS[name]()
        self.inputs = {key: tensor.numpy() for key, tensor in tensors.items()}
        self.graph: OdeGraph = capture(model, self.inputs)
        self.plan = Plan(
            tuple(
                site.kept or solve_plan(site.name, SOLVERS["rk4"], Grid.through(site.times, 4))
                for site in self.graph.sites
            )
        )
        assert self.graph.evaluator is not None
        self.outputs = self.graph.evaluator.run(self.plan, self.inputs, "float32").outputs


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: Case(name) for name in MODELS}


def written(case: Case, name: str, folder: Path, metadata: dict[str, str]) -> Path:
    chosen = formats.find(name)
    path = folder / f"model{chosen.suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen.build(case.graph, case.plan, "unrolled").write(path, metadata)
    return path


def test_table() -> None:
    for name in FORMATS:
        chosen = formats.find(name)
        assert chosen.name == name and SUFFIXES[chosen.suffix] == name
        assert type(formats.from_path(f"a.b/MODEL{chosen.suffix.upper()}")) is type(chosen)
    with pytest.raises(UnknownName, match="did you mean 'onnx'"):
        formats.find("onxx")
    with pytest.raises(BadInput, match="no known suffix"):
        formats.from_path("model.bin")


def test_onnx_is_verified_with_its_runtime_alone(tmp_path: Path) -> None:
    x = np.ones((2, 3), np.float32)
    packed = Golden({"image": x}, {"logits": x @ WEIGHT}, 1e-5).pack()
    path = save(linear({GOLDEN: packed}), tmp_path / "m.onnx")
    command = (
        "import sys; from odedeploy import formats, verification;"
        "runner = formats.from_path(sys.argv[1]).open(sys.argv[1]);"
        "print(bool(verification.check_golden(runner)));"
        "print({'torch', 'onnx', 'onnx_ir', 'scipy'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", command, str(path)], capture_output=True, text=True, cwd="/"
    )
    assert done.stdout.split() == ["True", "set()"], done.stderr


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", FORMATS)
def test_artefact_is_the_plan(
    cases: dict[str, Case], tmp_path: Path, name: str, model: str
) -> None:
    case = cases[model]
    runner = formats.find(name).open(written(case, name, tmp_path, {}))
    result = verify(
        runner, case.inputs, case.outputs, case.outputs,
        expected_inputs=input_specs(case.graph.model),
        expected_outputs=output_specs(case.graph.model), tol=1e-2,
    )  # fmt: skip
    assert result.failures == ()


@pytest.mark.parametrize("name", FORMATS)
def test_metadata_and_golden_inputs_travel(
    cases: dict[str, Case], tmp_path: Path, name: str
) -> None:
    case = cases["adjoint"]
    text = {"odedeploy.manifest": '{"é": 1}', "other": ""}
    path = written(case, name, tmp_path, text)
    runner = formats.find(name).open(path, threads=1)
    assert text.items() <= dict(runner.metadata).items()
    text[GOLDEN] = golden(runner, case.inputs, 2).pack()
    assert check_golden(formats.find(name).open(written(case, name, tmp_path, text)))


@pytest.mark.parametrize("name", FORMATS)
def test_no_local_paths(cases: dict[str, Case], tmp_path: Path, name: str) -> None:
    path = written(cases["convolution_with_norm_and_dropout"], name, tmp_path, {})
    data = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            data = b"".join(archive.read(entry) for entry in archive.namelist())
    assert [private for private in PRIVATE if private in data] == []


@pytest.mark.parametrize("name", FORMATS)
def test_written_twice_gives_the_same_bytes(
    cases: dict[str, Case], tmp_path: Path, name: str
) -> None:
    built = formats.find(name).build(cases["adjoint"].graph, cases["adjoint"].plan, "unrolled")
    built.write(tmp_path / "first", {"a": "b", "c": "d"})
    built.write(tmp_path / "second", {"a": "b", "c": "d"})
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_failed_write_leaves_old_file(
    cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    built = formats.find(name).build(cases["adjoint"].graph, cases["adjoint"].plan, "unrolled")
    path = tmp_path / "model"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="No space left"):
        built.write(path, {})
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "half", "other zip"])
def test_bad_files(cases: dict[str, Case], tmp_path: Path, name: str, damage: str) -> None:
    path = written(cases["adjoint"], name, tmp_path, {})
    data = path.read_bytes()
    path.unlink()
    if damage == "other zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/extra/odedeploy.signature", "{}")
    elif damage != "missing":
        path.write_bytes({"empty": b"", "text": b"text", "half": data[: len(data) // 2]}[damage])
    with pytest.raises(BadInput) as caught:
        formats.find(name).open(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_wrong_inputs(cases: dict[str, Case], tmp_path: Path, name: str) -> None:
    runner = formats.find(name).open(written(cases["adjoint"], name, tmp_path, {}))
    (label,) = [spec.name for spec in runner.inputs]
    for bad in ({}, {label: np.zeros((2, 3))}, {label: np.zeros((2, 4), np.float32)}):
        with pytest.raises(BadInput):
            runner.run(bad)


def test_onnx_holds_the_graph(cases: dict[str, Case], tmp_path: Path) -> None:
    path = written(cases["adjoint"], "onnx", tmp_path, {})
    assert load(path).metadata[GRAPH]


def test_onnx_beyond_two_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from odedeploy.formats import onnx as room

    built = room.BuiltOnnx(ir.from_proto(linear({"kept": "1"})), {"kept": "2", "graph": "g"})
    built.write(tmp_path / "m.onnx", {"graph": "h"})
    assert load(tmp_path / "m.onnx").metadata == {"kept": "2", "graph": "h"}
    assert onnx.load(tmp_path / "m.onnx").graph.initializer[0].raw_data == WEIGHT.tobytes()
    monkeypatch.setattr(room, "LIMIT", 100)
    with pytest.raises(BadInput, match="more than the 100 of one ONNX file"):
        built.write(tmp_path / "n.onnx", {})
    assert not (tmp_path / "n.onnx").exists()


def test_torchscript_stores_every_weight_once(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["adjoint"]
    path = written(case, "torchscript", tmp_path, {})
    with zipfile.ZipFile(path) as archive:
        sizes = [i.file_size for i in archive.infolist() if "/constants/" in i.filename]
    module = case.graph.evaluator.module(case.plan)
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    times = 4 * case.plan.evaluations
    assert weights <= sum(sizes) <= weights + times


def test_torchscript_refusals(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["adjoint"]
    room = formats.find("torchscript")
    with pytest.raises(BadInput, match="from the PyTorch model"):
        room.build(OdeGraph(case.graph.model, case.graph.sites), case.plan, "unrolled")
    with pytest.raises(BadInput, match="TorchScript holds no 'loop'"):
        room.build(case.graph, case.plan, "loop")
    with pytest.raises(BadInput, match="at least 1"):
        room.open(tmp_path / "m.pt", threads=0)


def test_torchscript_failing_inside_is_a_crash(tmp_path: Path) -> None:
    from odedeploy.formats.torchscript import BuiltTorchScript, TorchScript

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(lambda x: (x.reshape(2, 2),), (torch.ones(4),))
    signature = '{"inputs": [["x", "float32", ["n"]]], "outputs": [["y", "float32", [2, 2]]]}'
    BuiltTorchScript(traced, signature).write(tmp_path / "m.pt", {})
    runner = TorchScript().open(tmp_path / "m.pt")
    assert runner.run({"x": np.ones(4, np.float32)})["y"].shape == (2, 2)
    with pytest.raises(Crashed, match="TorchScript failed") as caught:
        runner.run({"x": np.ones(5, np.float32)})
    assert "\n" not in str(caught.value)


def test_torchscript_runs_without_odedeploy(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["adjoint"]
    path = written(case, "torchscript", tmp_path, {})
    (array,) = case.inputs.values()
    np.save(tmp_path / "x.npy", array)
    command = (
        "import sys, numpy, torch; m = torch.jit.load(sys.argv[1]);"
        "x = torch.from_numpy(numpy.load(sys.argv[2])); numpy.save(sys.argv[3], m(x)[0].numpy());"
        "print('odedeploy' in sys.modules)"
    )
    arguments = [str(path), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", command, *arguments],
        capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert done.stdout.strip() == "False", done.stderr
    (expected,) = case.outputs.values()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-5, atol=1e-6)
