"""Files lowered again for another tolerance where importing torch fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torchless
from onnxfiles import linear, save
from user_model import made

import odedeploy
from odedeploy import api
from odedeploy.errors import BadInput, FellShort
from odedeploy.manifest import Manifest
from odedeploy.spec import ExportSpec


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model at 1e-2, and inputs beside it."""
    folder = tmp_path_factory.mktemp("retarget")
    model, inputs = made(rows=160)
    graph = api.capture(model, inputs)
    spec = ExportSpec(tol=1e-2, solver="rk4", form="loop", coverage=0.9)
    api.export(graph, api.plan(graph, inputs, spec=spec), folder / "model.onnx")
    np.save(folder / "inputs.npy", inputs.numpy())
    return folder / "model.onnx"


def command(*arguments: str | Path) -> tuple[dict[str, Any], str]:
    """The manifest that ``odedeploy retarget`` prints, and what it says on stderr."""
    line = ["retarget", *map(str, arguments), "--json"]
    code = f"sys.argv[1:] = {line!r}\nfrom odedeploy.cli import app\napp()"
    ended = torchless.run(code)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout), ended.stderr


def test_tighter_and_wider_with_calibration_inputs(exported: Path) -> None:
    inputs = np.load(exported.with_name("inputs.npy"))
    truth = None
    for tol, form in (("1e-5", "loop"), ("1e-1", "unrolled")):
        written = exported.with_name(f"{tol}-{form}.onnx")
        data, said = command(exported, "--tol", tol, "-o", written, "--form", form,
                             "--inputs", exported.with_name("inputs.npy"), "--coverage", "0.9")  # fmt: skip
        manifest = Manifest.from_json(data)
        assert manifest.kept and manifest.form == form and said == ""
        assert manifest.error.samples == 80 and manifest.error.coverage == 0.9
        assert manifest.extra["retargeted"] == {"file": "model.onnx", "tol": 1e-2}
        outputs = odedeploy.load(written)(inputs)
        truth = outputs if truth is None else truth
        norms = np.linalg.norm(truth, axis=1)
        errors = np.linalg.norm(outputs - truth, axis=1) / np.maximum(norms, np.median(norms) / 99)
        assert np.quantile(errors, 0.9) <= float(tol)
        assert api.verify(written).passed
    assert manifest.plan["nfe"] < 4


def test_golden_inputs_promise_what_they_can(exported: Path) -> None:
    data, said = command(exported, "--tol", "1e-3")
    again = exported.with_name("model-0.001.onnx")
    assert "Calibrated on the 4 golden inputs" in said and "22%" in said
    assert "where 299 are needed" in data["promise"] and "22.36 %" in data["promise"]
    written = odedeploy.load(again)
    assert written.manifest is not None and written.golden is not None
    assert written.manifest.warnings[0].startswith("Calibrated on the 4 golden")
    assert len(written.golden.inputs["x"]) == 4
    third = api.retarget(again, ExportSpec(tol=1e-2), again.with_name("third.onnx"))
    assert third.kept and third.extra["retargeted"]["tol"] == 1e-3


def test_the_solver_and_its_evaluations_can_be_chosen(exported: Path, tmp_path: Path) -> None:
    spec = ExportSpec(tol=1e-1, solver="heun2", nfe=6)
    manifest = api.retarget(exported, spec, tmp_path / "heun.onnx")
    assert (manifest.plan["solver"], manifest.plan["nfe"]) == ("heun2", 6)


def test_bad_input(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    spec = ExportSpec(tol=1e-1)
    with pytest.raises(BadInput, match="carries no ODE graph"):
        api.retarget(save(linear(), tmp_path / "linear.onnx"), spec, out)
    with pytest.raises(BadInput, match=r"takes the inputs \['x'\], got \['y'\]"):
        api.retarget(exported, spec, out, {"y": np.zeros((9, 2), np.float32)})
    with pytest.raises(BadInput, match=r"float32\[9, 3\], the model takes float32"):
        api.retarget(exported, spec, out, np.zeros((9, 3), np.float32))
    with pytest.raises(FellShort, match="above"):
        api.retarget(exported, ExportSpec(tol=1e-3, solver="euler", nfe=2), out)
    changed = onnx.load(exported)
    weights = [i for n in changed.graph.node for a in n.attribute for i in a.g.initializer]
    largest = max(weights, key=lambda each: len(each.raw_data))
    largest.raw_data = bytes(len(largest.raw_data))
    with pytest.raises(BadInput, match="is not the one that its ODE graph"):
        api.retarget(save(changed, tmp_path / "changed.onnx"), spec, out)
    assert not out.exists()


def test_a_loop_knows_its_steps(exported: Path) -> None:
    model, inputs = odedeploy.load(exported), np.load(exported.with_name("inputs.npy"))
    assert [(o.name, o.dtype, o.shape) for o in model.options] == [("steps", "int64", ())]
    assert [spec.name for spec in model.inputs] == ["x"]
    assert model.manifest is not None
    known = model.manifest.extra["steps"]
    low, high = known["certified"]
    assert low <= known["default"] <= high
    assert {each["steps"]: each["kept"] for each in known["errors"]}[known["default"]]
    assert np.array_equal(model(inputs), model(inputs, steps=known["default"]))
    fine = model(inputs, steps=high)
    assert 0 < np.abs(fine - model(inputs, steps=low)).max() < 0.1 * np.abs(fine).max()
    with pytest.warns(UserWarning, match=f"{high + 1} steps are outside {low} to {high}"):
        model(inputs, steps=high + 1)
    for wrong in (0, -1, 2.5, [1, 2], "many"):
        with pytest.raises(BadInput, match="'steps' takes one positive int64"):
            model(inputs, steps=wrong)
