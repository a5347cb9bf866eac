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
from every_format import NAMES, marked
from hypothesis import given
from hypothesis import strategies as st
from onnxfiles import WEIGHT, linear, save
from patterns import PATTERNS

import odedeploy
from odedeploy import formats, precision
from odedeploy.errors import BadInput, Crashed, UnknownName, Unusable
from odedeploy.evaluator import OnnxEvaluator
from odedeploy.formats import FORMATS, SUFFIXES
from odedeploy.formats.archive import Packed
from odedeploy.formats.parts import in_parts
from odedeploy.frontends import capture
from odedeploy.graph import OdeGraph, input_specs, output_specs
from odedeploy.grid import Grid
from odedeploy.lowering import lower
from odedeploy.manifest import TensorSpec
from odedeploy.program import Plan, solve_plan
from odedeploy.runtime import GOLDEN, GRAPH, Golden, load
from odedeploy.solvers import SOLVERS
from odedeploy.tolerance import worst_error
from odedeploy.verification import check_golden, golden, verify

MODELS = ("adjoint", "two_inputs", "nonuniform_trajectory", "convolution_with_norm_and_dropout")
PRIVATE = (b"/work", b"/home", b"/tmp", b"site-packages", b'.py"', __file__.encode())


def pairs() -> list[object]:
    """Formats and models; of what is slow to build, models with the batch first and second."""
    chosen = {name: MODELS if formats.find(name).quick else MODELS[:3:2] for name in FORMATS}
    return [marked(name, model) for name, models in chosen.items() for model in models]



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
        self._built: dict[str, formats.Built] = {}

    def built(self, name: str) -> formats.Built:
        """The artefact, built once; skips where it cannot be."""
        if name not in self._built:
            chosen = formats.find(name)
            try:
                chosen.ready()
            except Unusable as reason:
                pytest.skip(str(reason))
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                self._built[name] = chosen.build(self.graph, self.plan, "unrolled")
        return self._built[name]


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: Case(name) for name in MODELS}


def written(case: Case, name: str, folder: Path, metadata: dict[str, str]) -> Path:
    path = folder / f"model{formats.find(name).suffix}"
    case.built(name).write(path, metadata)
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


@pytest.mark.parametrize(("name", "model"), pairs())
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


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("name", NAMES)
def test_no_local_paths(cases: dict[str, Case], tmp_path: Path, name: str) -> None:
    quick = formats.find(name).quick
    path = written(cases["convolution_with_norm_and_dropout" if quick else "adjoint"], name,
                   tmp_path, {})  # fmt: skip
    data = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            data = b"".join(archive.read(entry) for entry in archive.namelist())
    assert [private for private in PRIVATE if private in data] == []


@pytest.mark.parametrize("name", NAMES)
def test_written_twice_gives_the_same_bytes(
    cases: dict[str, Case], tmp_path: Path, name: str
) -> None:
    built = cases["adjoint"].built(name)
    built.write(tmp_path / "first", {"a": "b", "c": "d"})
    built.write(tmp_path / "second", {"a": "b", "c": "d"})
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_failed_write_leaves_old_file(
    cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    built = cases["adjoint"].built(name)
    path = tmp_path / "model"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="No space left"):
        built.write(path, {})
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("name", NAMES)
def test_metadata_is_read_without_the_runtime(
    cases: dict[str, Case], tmp_path: Path, name: str
) -> None:
    path = written(cases["adjoint"], name, tmp_path, {"odedeploy.manifest": "{}"})
    assert formats.find(name).metadata(path)["odedeploy.manifest"] == "{}"


@pytest.mark.parametrize("name", NAMES)
def test_loaded_and_called(cases: dict[str, Case], tmp_path: Path, name: str) -> None:
    case = cases["adjoint"]
    model = odedeploy.load(written(case, name, tmp_path, {}))
    (array,), (expected,) = case.inputs.values(), case.outputs.values()
    np.testing.assert_allclose(model(array), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model(array[:1]), expected[:1], rtol=1e-4, atol=1e-5)
    if name != "onnx":
        with pytest.raises(BadInput, match="providers"):
            odedeploy.load(tmp_path / f"model{formats.find(name).suffix}", providers=["CPU"])


@pytest.mark.parametrize("name", NAMES)
def test_any_batch(cases: dict[str, Case], tmp_path: Path, name: str) -> None:
    """Also one at which a runtime's plan of its memory may end."""
    case = cases["adjoint"]
    model = odedeploy.load(written(case, name, tmp_path, {}))
    (array,), (expected,) = case.inputs.values(), case.outputs.values()
    for rows in (15, 16, 17, 40):
        taken = np.arange(rows) % len(array)
        np.testing.assert_allclose(model(array[taken]), expected[taken], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in FORMATS if n != "onnx"])
def test_a_damaged_payload_is_refused(tmp_path: Path, name: str) -> None:
    signature = '{"inputs": [], "outputs": []}'
    path = tmp_path / f"m{formats.find(name).suffix}"
    Packed(b"payload" * 40, signature).write(path, {})
    path.write_bytes(path.read_bytes().replace(b"payload", b"pAyload", 1))
    with pytest.raises((BadInput, Unusable)) as caught:
        formats.find(name).open(path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["torchscript", "openvino", "pt2"])
def test_every_solver_in_every_runtime(
    cases: dict[str, Case], tmp_path: Path, name: str, solver: str
) -> None:
    case, room = cases["adjoint"], formats.find(name)
    case.built(name)
    plan = Plan(tuple(
        solve_plan(site.name, SOLVERS[solver], Grid.through(site.times, 2))
        for site in case.graph.sites
    ))  # fmt: skip
    expected = case.graph.evaluator.run(plan, case.inputs, "float32").outputs
    path = tmp_path / f"m{room.suffix}"
    room.build(case.graph, plan, "unrolled").write(path, {})
    result = verify(
        room.open(path), case.inputs, expected, expected,
        expected_inputs=input_specs(case.graph.model),
        expected_outputs=output_specs(case.graph.model), tol=1e-2,
    )  # fmt: skip
    assert result.failures == ()


@pytest.mark.parametrize(
    "planted", ["pickled weight", "pickled object", "legacy", "twice", "other"]
)
def test_pickles_in_an_exported_program_are_refused(
    cases: dict[str, Case], tmp_path: Path, planted: str
) -> None:
    path = written(cases["adjoint"], "pt2", tmp_path, {})
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    config = next(name for name in entries if name.endswith("weights_config.json"))
    if planted == "pickled weight":
        entries[config] = entries[config].replace(b'"use_pickle": false', b'"use_pickle": true', 1)
    elif planted == "pickled object":
        entries[config] = entries[config].replace(b'"path_name": "weight_0"',
                                                  b'"path_name": "custom_obj_0"', 1)  # fmt: skip
    elif planted == "legacy":
        entries[config.rpartition("/")[0] + "/model.pt"] = b""
    elif planted == "other":
        entries = {n: data for n, data in entries.items() if not n.endswith("archive_format")}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
        if planted == "twice":
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr(config, entries[config])
    with pytest.raises(BadInput, match="pickled objects"):
        formats.find("pt2").open(path)


def test_openvino_is_a_pair_that_other_programs_read(
    cases: dict[str, Case], tmp_path: Path
) -> None:
    case = cases["adjoint"]
    path = written(case, "openvino", tmp_path, {})
    import openvino

    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path, ["model.xml", "model.bin"])
    compiled = openvino.compile_model(str(tmp_path / "model.xml"), "CPU")
    (array,), (expected,) = case.inputs.values(), case.outputs.values()
    np.testing.assert_allclose(compiled(array)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_openvino_holds_lower_precisions(
    cases: dict[str, Case], tmp_path: Path, kind: str
) -> None:
    case, room = cases["convolution_with_norm_and_dropout"], formats.find("openvino")
    case.built("openvino")
    transform = precision.transform(kind, case.graph, case.inputs)
    model = transform(lower(case.graph, case.plan), case.plan)
    room.converted(model, case.graph, case.plan).write(tmp_path / "m.openvino", {})
    found = room.open(tmp_path / "m.openvino").run(case.inputs)
    wanted = OnnxEvaluator(case.graph, transform).run(case.plan, case.inputs, "float32").outputs
    apart = worst_error(found, wanted).max()
    assert apart < worst_error(wanted, case.outputs).max() and apart < 1e-3


def test_openvino_keeps_few_shapes(cases: dict[str, Case], tmp_path: Path) -> None:
    from odedeploy.formats import openvino as room

    case = cases["adjoint"]
    model = odedeploy.load(written(case, "openvino", tmp_path, {}))
    (array,), (expected,) = case.inputs.values(), case.outputs.values()
    for rows in range(1, room.SHAPES + 3):
        taken = np.arange(rows) % len(array)
        np.testing.assert_allclose(model(array[taken]), expected[taken], rtol=1e-4, atol=1e-5)
    assert len(model._compiled) == room.SHAPES


def test_a_compiler_that_is_missing_is_refused(
    cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(Unusable, match="needs a C.. compiler, and there is no no-such-compiler"):
        formats.check_form("aoti", "unrolled")


@pytest.mark.parametrize(
    ("name", "package"),
    [("openvino", "openvino"), ("executorch", "executorch"), ("litert", "ai_edge_litert")],
)
def test_a_package_that_is_missing_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Unusable, match=rf"pip install 'odedeploy\[{name}\]'"):
        formats.check_form(name, "unrolled")


@given(
    count=st.integers(1, 40), rows=st.integers(1, 9), exact=st.booleans(), seed=st.integers(0, 9)
)
def test_parts_give_what_the_whole_gives(count: int, rows: int, exact: bool, seed: int) -> None:
    inputs = (TensorSpec("x", "float32", ("batch", 3)), TensorSpec("s", "float32", ()))
    outputs = (TensorSpec("y", "float32", ("batch", 3)), TensorSpec("z", "float32", (2, "batch")))
    x = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    sizes = []

    def run(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        sizes.append(len(feed["x"]))
        return [feed["x"] * feed["s"], np.stack([feed["x"].sum(1), feed["x"].max(1)])]

    feed = {"x": x, "s": np.float32(2)}
    found = in_parts(run, feed, inputs, outputs, rows, exact)
    assert all(size == rows if exact else size <= rows for size in sizes)
    for one, other in zip(found, run(feed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_parts_need_a_batch_axis() -> None:
    inputs, outputs = (TensorSpec("x", "float32", ("b",)),), (TensorSpec("y", "float32", ()),)
    with pytest.raises(BadInput, match="no batch axis"):
        in_parts(lambda feed: [feed["x"].sum()], {"x": np.ones(3)}, inputs, outputs, 2, True)


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
    from odedeploy.formats.torchscript import TorchScript, _saved

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(lambda x: (x.reshape(2, 2),), (torch.ones(4),))
    signature = '{"inputs": [["x", "float32", ["n"]]], "outputs": [["y", "float32", [2, 2]]]}'
    Packed(_saved(traced), signature).write(tmp_path / "m.pt", {})
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
