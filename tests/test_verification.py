from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxfiles import WEIGHT, linear, model, save

from odedeploy.manifest import TensorSpec
from odedeploy.runtime import GOLDEN, Golden, load
from odedeploy.verification import ROWS, Verification, check_golden, golden, verify

INPUTS = (TensorSpec("image", "float32", ("batch", 3)),)
OUTPUTS = (TensorSpec("logits", "float32", ("batch", 2)),)


def images(rows: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)


def check(
    proto: onnx.ModelProto,
    folder: Path,
    rows: int = 8,
    truth: Callable[[np.ndarray], np.ndarray] = lambda x: x @ WEIGHT,
    inputs: tuple[TensorSpec, ...] = INPUTS,
    outputs: tuple[TensorSpec, ...] = OUTPUTS,
) -> Verification:
    x = images(rows)
    answer = truth(x)
    return verify(
        load(save(proto, folder / "m.onnx"), threads=1),
        {inputs[0].name: x},
        {outputs[0].name: answer},
        {outputs[0].name: answer.astype(np.float64) * (1 + 1e-3)},
        expected_inputs=inputs,
        expected_outputs=outputs,
        tol=1e-2,
    )


def through(*nodes: onnx.NodeProto, shape: tuple[int | str, ...] = ("batch", 2)) -> onnx.ModelProto:
    """The linear model with its result ``y`` passed on by ``nodes`` to ``logits``."""
    return model(
        [helper.make_node("MatMul", ["image", "weight"], ["y"]), *nodes],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        {"weight": WEIGHT, "scale": np.array([1, 1.001], np.float32), "axis": np.array([0])},
    )


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 2 * ROWS + 3])
def test_right_artefact_passes(tmp_path: Path, rows: int) -> None:
    result = check(linear(), tmp_path, rows)
    assert result and result.failures == ()
    assert result.export_error.shape == (rows,) and result.export_error.max() < 1e-6
    np.testing.assert_allclose(result.discretisation_error, 1e-3 / 1.001, rtol=1e-3)
    np.testing.assert_allclose(result.error, 1e-3 / 1.001, rtol=1e-3)


def test_wrong_values_name_place_and_both_tolerances(tmp_path: Path) -> None:
    result = check(through(helper.make_node("Mul", ["y", "scale"], ["logits"])), tmp_path)
    assert not result and len(result.failures) == 1
    x = images(8)
    expected = np.abs(x @ WEIGHT * [0, 1e-3])[:, 1] / np.linalg.norm(x @ WEIGHT, axis=1)
    np.testing.assert_allclose(result.export_error, expected, rtol=1e-2)
    for part in (f"on input {expected.argmax()}", "most at (1,)", "tolerance 1e-05", "0.01)"):
        assert part in result.failures[0]


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceMax"])
def test_answer_depending_on_batch_mates(tmp_path: Path, operator: str) -> None:
    nodes = (
        helper.make_node(operator, ["y", "axis"], ["shared"], keepdims=1),
        helper.make_node("Sub", ["y", "shared"], ["logits"]),
    )
    numpy = {"ReduceMean": np.mean, "ReduceMax": np.max}[operator]
    result = check(
        through(*nodes), tmp_path, truth=lambda x: x @ WEIGHT - numpy(x @ WEIGHT, 0, keepdims=True)
    )
    assert result.export_error.max() <= 1e-5
    assert "depends on its batch" in result.failures[0] and "batch of 1 " in result.failures[0]


def test_batch_frozen_inside(tmp_path: Path) -> None:
    nodes = (
        helper.make_node("Constant", [], ["shape"], value_ints=[8, 2]),
        helper.make_node("Reshape", ["y", "shape"], ["logits"]),
    )
    result = check(through(*nodes), tmp_path)
    assert result.export_error.max() <= 1e-5
    assert [f.partition(":")[0] for f in result.failures[-2:]] == [
        "The artefact does not run at batch size 1",
        "The artefact does not run at batch size 3",
    ]


def test_batch_frozen_in_the_signature(tmp_path: Path) -> None:
    result = check(linear(batch=8), tmp_path)
    assert [f.partition(" of ")[0] for f in result.failures[:2]] == ["Axis 0", "Axis 0"]
    assert len(result.failures) == 4


def test_frozen_batch_is_right_when_the_model_has_it(tmp_path: Path) -> None:
    inputs = (TensorSpec("image", "float32", (8, 3)),)
    outputs = (TensorSpec("logits", "float32", (8, 2)),)
    assert check(linear(batch=8), tmp_path, inputs=inputs, outputs=outputs)


def test_everything_wrong_is_collected_in_order(tmp_path: Path) -> None:
    nodes = (
        helper.make_node("Cast", ["y"], ["double"], to=TensorProto.DOUBLE),
        helper.make_node("Concat", ["double", "double"], ["logits"], axis=1),
    )
    proto = through(*nodes, shape=("batch", 4))
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    proto.graph.node.append(helper.make_node("Abs", ["y"], ["extra"]))
    proto.graph.output.append(
        helper.make_tensor_value_info("extra", TensorProto.FLOAT, ["batch", 2])
    )
    result = check(proto, tmp_path)
    parts = [
        "outputs are ['logits', 'extra'], the model's ['logits']",
        "'logits' is float64, in the model float32",
        "'logits' has shape ('batch', 4), in the model ('batch', 2)",
        "'extra' is given by the artefact only",
        "'logits' came as float64",
        "'logits' came with shape (8, 4)",
    ]
    assert len(result.failures) == len(parts)
    for failure, part in zip(result.failures, parts, strict=True):
        assert part in failure
    assert np.isinf(result.export_error).all() and np.isfinite(result.discretisation_error).all()


def test_renamed_input_does_not_run(tmp_path: Path) -> None:
    result = check(linear(), tmp_path, inputs=(TensorSpec("picture", "float32", ("batch", 3)),))
    assert "inputs are ['image'], the model's ['picture']" in result.failures[0]
    assert "does not run on the inputs" in result.failures[-1]
    assert np.isinf(result.error).all()


def test_not_finite_output_fails(tmp_path: Path) -> None:
    result = check(through(helper.make_node("Log", ["y"], ["logits"])), tmp_path)
    assert not result and np.isinf(result.export_error).any()


def test_trajectory_has_its_batch_second(tmp_path: Path) -> None:
    """Output (times, batch, 2); what it is compared with is batch first."""
    nodes = (
        helper.make_node("Add", ["y", "y"], ["z"]),
        helper.make_node("Unsqueeze", ["y", "axis"], ["first"]),
        helper.make_node("Unsqueeze", ["z", "axis"], ["second"]),
        helper.make_node("Concat", ["first", "second"], ["logits"], axis=0),
    )
    result = check(
        through(*nodes, shape=(2, "batch", 2)),
        tmp_path,
        rows=5,
        truth=lambda x: np.stack([x @ WEIGHT, 2 * x @ WEIGHT], axis=1),
        outputs=(TensorSpec("logits", "float32", (2, "batch", 2)),),
    )
    assert result.failures == () and result.export_error.shape == (5,)


def test_static_input_is_passed_whole(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("MatMul", ["image", "matrix"], ["logits"])],
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("matrix", TensorProto.FLOAT, [3, 2]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
    )
    runner = load(save(proto, tmp_path / "m.onnx"))
    x = images(ROWS + 1)
    inputs, answer = {"image": x, "matrix": WEIGHT}, {"logits": x @ WEIGHT}
    assert verify(
        runner, inputs, answer, answer,
        expected_inputs=(*INPUTS, TensorSpec("matrix", "float32", (3, 2))),
        expected_outputs=OUTPUTS, tol=1e-2,
    )  # fmt: skip
    chosen = golden(runner, inputs, 2)
    assert chosen.inputs["image"].shape == (2, 3) and chosen.inputs["matrix"].shape == (3, 2)


def test_golden_inputs_travel_and_are_checked_again(tmp_path: Path) -> None:
    runner = load(save(linear(), tmp_path / "m.onnx"))
    packed = golden(runner, {"image": images(8)}, k=3)
    again = load(save(linear({GOLDEN: packed.pack()}), tmp_path / "n.onnx"))
    result = check_golden(again)
    assert result and result.errors.tolist() == [0.0, 0.0, 0.0]
    wrong = Golden(packed.inputs, {"logits": packed.outputs["logits"] * 1.01}, packed.tolerance)
    result = check_golden(load(save(linear({GOLDEN: wrong.pack()}), tmp_path / "o.onnx")))
    assert not result and result.errors.min() > 9e-3
