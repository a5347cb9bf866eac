from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxfiles import WEIGHT, linear, model, pair, save

import odedeploy
from odedeploy.errors import BadInput, Crashed, OdeDeployError, UnknownName, Unusable
from odedeploy.manifest import ErrorReport, Manifest, TensorSpec
from odedeploy.runtime import GOLDEN, MANIFEST, Golden, check_golden, load
from odedeploy.runtime.__main__ import main

X = np.arange(12, dtype=np.float32).reshape(4, 3) / 7

BARE = """
import sys
class Block:
    names = {"torch", "onnx", "onnx_ir", "onnxscript", "typer", "scipy", "rich", "matplotlib"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Block())
from odedeploy.runtime.__main__ import main
code = main(sys.argv[1:])
print(sorted({name.partition(".")[0] for name in sys.modules} & (Block.names | {"onnxruntime"})))
sys.exit(code)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(linear(), tmp_path / "linear.onnx")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return save(pair(), tmp_path / "pair.onnx")


def golden(shift: float = 0.0) -> dict[str, str]:
    return {GOLDEN: Golden({"image": X}, {"logits": X @ WEIGHT + shift}, 1e-5).pack()}


def manifest() -> Manifest:
    return Manifest(
        file="m.onnx", format="onnx", form="unrolled", precision="fp32", target="cpu", tol=1e-2,
        metric="output", kept=True, promise="p", plan={"nfe": 4},
        error=ErrorReport(1e-3, 2e-3, 1e-4, 0.99, 0.95, 299), discretisation_error=1e-3,
        export_error=1e-7, reference={"method": "tsit5"}, candidates=[], seconds={"lower": 0.1},
        inputs=(TensorSpec("image", "float32", ("batch", 3)),),
        outputs=(TensorSpec("logits", "float32", ("batch", 2)),), versions={}, seed=0,
    )  # fmt: skip


def test_called_by_position_and_by_name(file: Path, two: Path) -> None:
    single = odedeploy.load(file)
    assert single.inputs == (TensorSpec("image", "float32", ("batch", 3)),)
    assert single.outputs == (TensorSpec("logits", "float32", ("batch", 2)),)
    assert (single.file, single.manifest, single.golden) == (file, None, None)
    for answer in (single(X), single(image=X), single(np.array(X))):
        np.testing.assert_allclose(answer, X @ WEIGHT, rtol=1e-6)
    several = load(two)
    x, label = np.ones((2, 2), np.float32), np.array([3, 4])
    for outputs in (several(x, label), several(x, label=label), several(label=label, x=x)):
        assert isinstance(outputs, dict) and list(outputs) == ["file", "size"]
        assert outputs["size"].tolist() == [6, 8] and outputs["file"][1].tolist() == [5, 5]


def test_array_layouts_give_the_same_answer(file: Path) -> None:
    loaded = load(file, threads=1)
    for same in (np.asfortranarray(X), np.repeat(X, 2, axis=0)[::2]):
        assert not same.flags.c_contiguous
        np.testing.assert_array_equal(loaded(same), loaded(X))


WRONG = {
    "float64": (X.astype(np.float64), r"float64.*float32.*image\.astype\('float32'\)"),
    "integer": (X.astype(np.int64), "int64"),
    "big-endian": (X.astype(">f4"), ">f4"),
    "rank": (X[0], r"\(3,\).*\(batch, 3\)"),
    "fixed axis": (X[:, :2], r"\(4, 2\).*\(batch, 3\)"),
    "empty batch": (X[:0], "'batch' has size 0"),
    "NaN": (np.where(X > 1.5, np.nan, X).astype(np.float32), r"nan at \(3, 2\)"),
    "infinity": (np.full_like(X, -np.inf), r"-inf at \(0, 0\)"),
    "ragged": ([[1.0], [1.0, 2.0]], "is no array"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arrays(file: Path, case: str) -> None:
    array, message = WRONG[case]
    with pytest.raises(BadInput, match=message):
        load(file)(array)


def test_wrong_names_and_counts(file: Path, two: Path) -> None:
    with pytest.raises(BadInput, match="'image' is missing, 'imag' is unknown"):
        load(file)(imag=X)
    with pytest.raises(BadInput, match=r"1 inputs \['image'\], got 2"):
        load(file)(X, X)
    with pytest.raises(BadInput, match="by position and by name"):
        load(file)(X, image=X)
    x = np.ones((2, 2), np.float32)
    with pytest.raises(BadInput, match="float64, the model takes int64"):
        load(two)(x, np.array([1.0, 2.0]))
    with pytest.raises(BadInput, match="'batch' has size 2 in input 'x' but 3 in 'label'"):
        load(two)(x, np.array([1, 2, 3]))


def test_unchecked_run_admits_nan_but_not_nonsense(file: Path) -> None:
    loaded = load(file)
    assert np.isnan(loaded.run({"image": np.full_like(X, np.nan)}, check=False)["logits"]).all()
    with pytest.raises(BadInput, match="refused its inputs"):
        loaded.run({"image": X.astype(np.float64)}, check=False)


def test_failure_inside_the_runtime_is_a_crash(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])],
        {"shape": np.array([2, 2])},
    )
    loaded = load(save(proto, tmp_path / "m.onnx"))
    assert loaded(np.ones(4, np.float32)).shape == (2, 2)
    with pytest.raises(Crashed, match="onnxruntime failed"):
        loaded(np.ones(5, np.float32))


def whole() -> bytes:
    return linear().SerializeToString()


BAD_FILES = {
    "empty": (b"", "not a whole ONNX file"),
    "text": (b"This is not a model.\n" * 20, "not a whole ONNX file"),
    "zeros": (bytes(100), "not a whole ONNX file"),
    "no graph": (onnx.ModelProto(ir_version=10).SerializeToString(), "holds no graph"),
    "trailing garbage": (whole() + b"\x00", "not a whole ONNX file"),
    "unknown operator": (
        whole().replace(b"MatMul", b"MatMal"),
        "is not a model that onnxruntime .* can load",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(tmp_path: Path, case: str) -> None:
    data, message = BAD_FILES[case]
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_truncated_anywhere(tmp_path: Path) -> None:
    path, data = tmp_path / "m.onnx", whole()
    refused = 0
    for end in range(len(data)):
        path.write_bytes(data[:end])
        try:
            load(path, threads=1)
        except OdeDeployError:
            refused += 1
    # A cut between two top-level fields after the graph leaves a model without an opset.
    assert refused == len(data)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.onnx", tmp_path):
        with pytest.raises(BadInput, match="cannot be read"):
            load(path)


def test_external_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save_model(linear(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert (tmp_path / "w.bin").exists()
    with pytest.raises(BadInput, match="'weight' in another file"):
        load(path)


def test_external_data_in_a_nested_graph_is_refused(tmp_path: Path) -> None:
    tensor = helper.make_tensor("hidden", TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    value = helper.make_tensor_value_info("r", TensorProto.FLOAT, [1])
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["r"], value=tensor)], "branch", [], [value]
    )
    proto = model(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    with pytest.raises(BadInput, match="'hidden' in another file"):
        load(save(proto, tmp_path / "m.onnx"))


def test_unknown_and_unusable_providers(file: Path) -> None:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    absent = next(p for p in onnxruntime.get_all_providers() if p not in available)
    with pytest.raises(Unusable, match=absent):
        load(file, providers=[absent])
    with pytest.raises(UnknownName, match="did you mean 'CPUExecutionProvider'"):
        load(file, providers=["CPUExecutionProvidr"])
    assert load(file, providers=["CPUExecutionProvider"]).providers == ("CPUExecutionProvider",)


def test_silent_fall_back_is_noticed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    everything = onnxruntime.get_all_providers()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: everything)
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(Unusable, match="cannot use CUDAExecutionProvider here"),
    ):
        load(file, providers=["CUDAExecutionProvider"])


def test_without_onnxruntime(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(Unusable, match=r"pip install odedeploy\[cpu\]"):
        load(file)


def test_threads(file: Path) -> None:
    assert load(file, threads=1)._session.get_session_options().intra_op_num_threads == 1
    with pytest.raises(BadInput, match="at least 1, got 0"):
        load(file, threads=0)


def test_manifest_travels(tmp_path: Path) -> None:
    path = save(linear({MANIFEST: json.dumps(manifest().to_json())}), tmp_path / "m.onnx")
    assert load(path).manifest == manifest()
    for damaged in ("{", "[]", "{}", "null"):
        save(linear({MANIFEST: damaged}), path)
        with pytest.raises(BadInput, match="manifest"):
            _ = load(path).manifest


def test_golden_travels(tmp_path: Path) -> None:
    loaded = load(save(linear(golden()), tmp_path / "m.onnx"))
    assert loaded.golden is not None
    np.testing.assert_array_equal(loaded.golden.inputs["image"], X)
    check = check_golden(loaded)
    assert check and check.errors.shape == (4,) and check.errors.max() <= 1e-6
    assert not check_golden(load(save(linear(golden(1e-3)), tmp_path / "n.onnx")))


@pytest.mark.parametrize("text", ["", "%%%", "AAAA", "gASVBAAAAAAAAACMAWGULg=="])
def test_damaged_golden(tmp_path: Path, text: str) -> None:
    loaded = load(save(linear({GOLDEN: text}), tmp_path / "m.onnx"))
    with pytest.raises(BadInput, match="golden inputs in the file are damaged"):
        _ = loaded.golden


def test_golden_of_any_name_and_dtype() -> None:
    inputs = {"file": np.array(3), "allow_pickle": np.zeros((0, 2), np.float16), "a/b": X}
    back = Golden.unpack(Golden(inputs, {"mode": X > 1}, 1e-4).pack())
    assert back.tolerance == 1e-4 and list(back.outputs) == ["mode"]
    for name, array in inputs.items():
        assert back.inputs[name].dtype == array.dtype
        np.testing.assert_array_equal(back.inputs[name], array)


def test_command_saves(
    file: Path, two: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source, out = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(source, X)
    assert main([str(file), str(source), "-o", str(out)]) == 0
    assert "logits  float32  (4, 2)" in capsys.readouterr().out
    np.testing.assert_allclose(np.load(out), X @ WEIGHT, rtol=1e-6)
    x, label = np.ones((2, 2), np.float32), np.array([3, 4])
    for arrays in ({"x": x, "label": label}, {"arr_0": x, "arr_1": label}):
        np.savez(tmp_path / "in.npz", **arrays)
        out = tmp_path / "out.npz"
        assert main([str(two), str(tmp_path / "in.npz"), "-o", str(out)]) == 0
        with np.load(out) as saved:
            assert sorted(saved) == ["file", "size"] and saved["size"].tolist() == [6, 8]


def test_command_summarises(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    np.save(tmp_path / "x.npy", np.tile(X, (1000, 1)))
    assert main([str(file), str(tmp_path / "x.npy"), "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "logits  float32  (4000, 2)" in printed and len(printed.splitlines()) < 12


@pytest.mark.parametrize(
    ("name", "arrays", "output", "message"),
    [
        ("missing.npy", None, None, "No such file"),
        ("text.npy", b"hello", None, "no readable"),
        ("empty.npy", b"", None, "no readable"),
        ("cut.npz", b"PK\x03\x04", None, "no readable"),
        ("double.npy", X.astype(np.float64), None, "float64"),
        ("x.npy", X, "out.txt", "must end in .npy or .npz"),
        ("x.npy", X, "no/such/folder/out.npy", "there is no folder"),
        ("pickled.npy", np.array([{}], dtype=object), None, "no readable"),
    ],
)
def test_command_bad_input(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture,
    name: str, arrays: object, output: str | None, message: str,
) -> None:  # fmt: skip
    source = tmp_path / name
    if isinstance(arrays, bytes):
        source.write_bytes(arrays)
    elif arrays is not None:
        np.save(source, arrays)
    before = sorted(tmp_path.rglob("*"))
    extra = ["-o", str(tmp_path / output)] if output else []
    assert main([str(file), str(source), *extra]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_command_self_test(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "m.onnx"
    assert main([str(save(linear(golden()), path)), "--self-test"]) == 0
    assert "4 golden inputs: largest error" in capsys.readouterr().out
    assert main([str(save(linear(golden(1e-3)), path)), "--self-test"]) == 1
    assert "fell short" in capsys.readouterr().err
    assert main([str(save(linear(), path)), "--self-test"]) == 2
    with pytest.raises(SystemExit) as usage:
        main([str(path)])
    assert usage.value.code == 2


def test_runs_with_numpy_and_onnxruntime_only(tmp_path: Path) -> None:
    path = save(linear(golden()), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", X)
    command = [sys.executable, "-c", BARE, str(path), str(tmp_path / "x.npy"), "--self-test"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['onnxruntime']"


def test_python_dash_m(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "odedeploy.runtime", str(tmp_path / "no.onnx"), "x.npy"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 2 and "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr


def test_inputs_and_outputs_at_fixed_addresses_give_the_same_answers(two: Path) -> None:
    bound, plain = load(two, settings={"device": "cpu"}), load(two)
    rng = np.random.default_rng(0)
    for rows in (2, 3, 2, 1):
        feed = {"x": rng.normal(size=(rows, 2)).astype(np.float32), "label": np.arange(rows)}
        found, expected = bound.run(feed), plain.run(feed)
        assert list(found) == list(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)
    assert bound.facts == {"providers": ["CPUExecutionProvider"], "options": {"device": "cpu"}}


def test_answers_at_fixed_addresses_outlive_the_next_run(file: Path) -> None:
    bound = load(file, settings={"device": "cpu"})
    first = bound(X)
    kept = np.array(first)
    bound(-X)
    np.testing.assert_array_equal(first, kept)


def test_settings_are_recorded_and_unknown_ones_refused(file: Path) -> None:
    settings = {"spinning": False, "arena": False, "affinity": None}
    model = load(file, threads=1, settings=settings)
    np.testing.assert_allclose(model(X), X @ WEIGHT, rtol=1e-6)
    assert model.facts["options"] == {"spinning": False, "arena": False}
    with pytest.raises(BadInput, match="no setting 'spin'; known are"):
        load(file, settings={"spin": True})
