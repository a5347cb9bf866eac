"""The whole way: a person's model to a certified file, and the traps on it."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from every_format import NAMES, usable
from patterns import PATTERNS, Solver
from torchdiffeq import odeint

import odedeploy
from odedeploy import api
from odedeploy.errors import BadInput, FellShort, UnknownName
from odedeploy.formats import from_path
from odedeploy.graph import OdeGraph
from odedeploy.manifest import Manifest
from odedeploy.planned import Planned
from odedeploy.spec import ExportSpec

EXAMPLE = Path(__file__).parents[1] / "examples" / "my_model.py"


@pytest.fixture(scope="module")
def captured() -> tuple[torch.nn.Module, dict[str, np.ndarray], OdeGraph]:
    torch.manual_seed(3)
    model = Solver(odeint, times=(0.0, 2.0))
    inputs = {"y": torch.randn(1000, 3).numpy()}
    return model, inputs, odedeploy.capture(model, inputs)


@pytest.fixture(scope="module")
def planned(captured) -> Planned:  # type: ignore[no-untyped-def]
    _, inputs, graph = captured
    return odedeploy.plan(graph, inputs, tol=1e-3)


@pytest.fixture(scope="module")
def exported(captured, planned, tmp_path_factory) -> tuple[Path, Manifest]:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    return path, odedeploy.export(captured[2], planned, path)


def test_certified_file_keeps_the_tolerance_on_fresh_inputs(captured, exported) -> None:  # type: ignore[no-untyped-def]
    model, _, _ = captured
    path, manifest = exported
    fresh = torch.randn(400, 3, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        truth = odeint(model.double().field, fresh.double(), torch.tensor([0.0, 2.0]).double(),
                       rtol=1e-10, atol=1e-10)[-1].numpy()  # fmt: skip
    model.float()
    found = odedeploy.load(path)(fresh.numpy())
    errors = np.linalg.norm(found - truth, axis=1) / np.linalg.norm(truth, axis=1)
    assert manifest.error.bound is not None and manifest.error.bound <= 1e-3
    assert np.mean(errors <= 1e-3) >= 0.98


def test_manifest_says_what_was_delivered(exported) -> None:  # type: ignore[no-untyped-def]
    path, manifest = exported
    beside = json.loads(path.with_name("model.onnx.json").read_text())
    assert beside == json.loads(json.dumps(manifest.to_json()))
    assert beside["bytes"] == path.stat().st_size
    inside = odedeploy.load(path).manifest
    whole = replace(inside, bytes=manifest.bytes, sha256=manifest.sha256)
    assert whole == Manifest.from_json(beside)
    assert set(manifest.seconds) >= {"reference", "search", "lower", "verify"}
    assert manifest.export_error <= 1e-5 < manifest.discretisation_error
    site = manifest.plan["sites"][0]
    assert (site["t0"], site["t1"]) == (0.0, 2.0) and site["nfe"] == manifest.plan["nfe"]


def test_file_is_self_contained_standard_onnx(exported) -> None:  # type: ignore[no-untyped-def]
    path, _ = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.domain for entry in model.opset_import] == [""]
    names = [tensor.name for tensor in model.graph.initializer]
    weights = [n for n in names if "net" in n]
    assert len(names) == len(set(names)) and weights
    content = path.read_bytes()
    for leak in (b"/work", b"/home", b"/root", b"site-packages", b".py"):
        assert leak not in content


@pytest.mark.parametrize("format", NAMES)
def test_every_format_delivers_the_same_answers(captured, planned, tmp_path, format) -> None:  # type: ignore[no-untyped-def]
    _, inputs, graph = captured
    path = tmp_path / f"model{usable(format).suffix}"
    asked = replace(planned, spec=replace(planned.spec, format=format))
    manifest = odedeploy.export(graph, asked, path)
    assert manifest.export_error <= 1e-5
    expected = graph.evaluator.run(planned.search.plan, inputs, "float32").outputs["output"]
    for rows in (1, 5):
        found = from_path(path).open(path).run({"y": inputs["y"][:rows]})["output"]
        np.testing.assert_allclose(found, expected[:rows], rtol=1e-5, atol=1e-6)


def test_verify_passes_again_and_fails_on_a_spoilt_file(captured, exported, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path, _ = exported
    assert odedeploy.verify(path).passed
    loaded = _loaded(captured)
    assert odedeploy.verify(path, loaded).passed
    model = onnx.load(path)
    bias = next(t for t in model.graph.initializer if t.name.endswith("bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 0.1, bias.name))
    spoilt = tmp_path / "spoilt.onnx"
    onnx.save(model, spoilt)
    assert not odedeploy.verify(spoilt).passed
    report = odedeploy.verify(spoilt, loaded)
    assert not report.passed and report.error > 1e-3 and report.failures


def test_out_of_reach_tolerance_writes_nothing_unless_best_effort(captured, tmp_path) -> None:  # type: ignore[no-untyped-def]
    _, inputs, graph = captured
    path = tmp_path / "m.onnx"
    spec = ExportSpec(tol=1e-3, solver="euler", nfe=2)
    poor = odedeploy.plan(graph, inputs, spec=spec)
    with pytest.raises(FellShort, match="euler"):
        odedeploy.export(graph, poor, path)
    assert not list(tmp_path.iterdir())
    manifest = odedeploy.export(graph, replace(poor, spec=replace(spec, best_effort=True)), path)
    assert not manifest.kept and manifest.promise.startswith("Nothing is promised")
    assert path.exists() and manifest.error.bound > 1e-3


def test_asked_solver_and_evaluations_are_used(captured) -> None:  # type: ignore[no-untyped-def]
    _, inputs, graph = captured
    found = odedeploy.plan(graph, inputs, spec=ExportSpec(tol=0.5, solver="midpoint", nfe=6))
    assert found.search.best.solver == "midpoint" and found.search.plan.evaluations == 6


def test_fixed_step_model_is_exported_as_the_map_it_is(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model, _ = PATTERNS["one_euler_step"]()
    inputs = torch.randn(700, 3)
    graph = odedeploy.capture(model, inputs)
    planned = odedeploy.plan(graph, inputs, tol=1e-3)
    manifest = odedeploy.export(graph, planned, tmp_path / "m.onnx")
    assert manifest.plan["nfe"] == 1 and manifest.reference["method"] == "kept"
    found = odedeploy.load(tmp_path / "m.onnx")(inputs.numpy())
    np.testing.assert_allclose(found, model(inputs).detach().numpy(), atol=1e-6)


def test_the_identity_trap(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Plain export of an adaptive solve of an autonomous field writes the identity, without a word.

    The same model through odedeploy gives the solution.
    """
    torch.manual_seed(0)
    model = Solver(odeint, autonomous=True).eval().requires_grad_(False)
    rows = torch.randn(700, 3)
    truth = model(rows).numpy()
    plain, ours = tmp_path / "plain.onnx", tmp_path / "ours.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (rows,), plain, dynamo=False, input_names=["y"])
    wrong = onnxruntime.InferenceSession(plain).run(None, {"y": rows.numpy()})[0]
    assert np.abs(wrong - rows.numpy()).max() == 0
    assert np.abs(wrong - truth).max() > 0.1
    graph = odedeploy.capture(model, rows)
    odedeploy.export(graph, odedeploy.plan(graph, rows, tol=1e-3), ours)
    assert np.abs(odedeploy.load(ours)(rows.numpy()) - truth).max() < 5e-3


def test_a_sample_does_not_depend_on_its_batch_mates(captured, exported) -> None:  # type: ignore[no-untyped-def]
    _, inputs, _ = captured
    model = odedeploy.load(exported[0])
    rows = inputs["y"][:6]
    together = model(rows)
    stiff = np.concatenate([rows[:1], 50 * rows[1:]])
    np.testing.assert_allclose(model(stiff)[0], together[0], rtol=1e-6, atol=1e-7)


def test_load_model_by_file_and_its_bad_inputs(tmp_path) -> None:  # type: ignore[no-untyped-def]
    loaded = api.load_model(f"{EXAMPLE}:build")
    assert list(loaded.inputs) == ["state"] and loaded.inputs["state"].shape == (1000, 2)
    (tmp_path / "odd.py").write_text(
        "import torch\ndef raises():\n    raise KeyError('x')\ndef number():\n    return 3\n"
        "def bare():\n    return torch.nn.Linear(2, 2)\n"
    )
    cases = {
        "no-such-model": UnknownName,
        f"{tmp_path}/none.py:build": BadInput,
        f"{EXAMPLE}:nothing": BadInput,
        f"{tmp_path}/odd.py:raises": BadInput,
        f"{tmp_path}/odd.py:number": BadInput,
        f"{tmp_path}/odd.py:bare": BadInput,
        "no.such.package:build": BadInput,
    }
    for name, error in cases.items():
        with pytest.raises(error):
            api.load_model(name)


@pytest.mark.parametrize(
    "array, word",
    [
        (np.full((10, 3), np.nan, np.float32), "NaN"),
        (np.zeros((2, 3), np.float32), "3 inputs"),
        (np.zeros((0, 3), np.float32), "rows"),
    ],
    ids=["nan", "two rows", "no rows"],
)
def test_bad_calibration_inputs(captured, array, word) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput, match=word):
        odedeploy.plan(captured[2], array, tol=1e-2)


def test_too_few_inputs_promise_less_and_say_so(captured, tmp_path) -> None:  # type: ignore[no-untyped-def]
    _, inputs, graph = captured
    few = odedeploy.plan(graph, inputs["y"][:60], tol=1e-2)
    manifest = odedeploy.export(graph, few, tmp_path / "m.onnx")
    assert "299 are needed" in manifest.promise
    assert manifest.error.coverage < 0.99


def _loaded(captured):  # type: ignore[no-untyped-def]
    from odedeploy.frontends.loading import Loaded

    model, inputs, _ = captured
    return Loaded("solver", model, inputs)




OWN = """
import torch
from torch import nn
from torchdiffeq import odeint

class Path(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x, t):
        x = x + 0.1 * torch.randn_like(x)
        return odeint(lambda s, y: self.net(y) * torch.cos(s), x, t).transpose(0, 1)

def build():
    torch.manual_seed(0)
    return Path(), (torch.randn(60, 2), torch.tensor([0.0, 0.4, 1.0]))
"""


def test_verify_captures_the_model_as_the_export_did(tmp_path: Path) -> None:
    (tmp_path / "path.py").write_text(OWN)
    address, file = f"{tmp_path}/path.py:build", tmp_path / "path.onnx"
    spec = ExportSpec(tol=1e-2, noise="input")
    manifest = api.deploy(api.load_model(address, static=("t",)), spec, file)
    assert manifest.extra["times_as_input"] == ["solve0", "solve1"]
    assert "Times are an input" in manifest.promise
    report = api.verify(file, api.load_model(address))
    assert report.passed and report.samples == 60
