"""Step-size control as a TorchScript loop beside the same form in ONNX."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchdiffeq import odeint
from typer.testing import CliRunner

import odedeploy
from odedeploy.cli import app
from odedeploy.errors import BadInput
from odedeploy.formats import find
from odedeploy.graph import OdeGraph
from odedeploy.program import Control, Plan

ROWS = 5
FORMATS = ("onnx", "torchscript")
OPTIONS = ({}, {"rtol": 1e-2, "atol": 1e-3}, {"max_evaluations": 14}, {"max_evaluations": 7})


class Two(nn.Module):
    """Two solves, the first conditioned on the input and with a time between, the second of two
    states, backwards, from where the first ended; what follows reads the input again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.condition = nn.Linear(3, 4), nn.Linear(3, 4)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        condition = self.condition(x)

        def first(t: Tensor, y: Tensor) -> Tensor:
            return 3 * self.net(y) + condition * torch.cos(3 * t)

        def second(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return -y[0] * t, self.net(y[1])

        path = odeint(first, self.stem(x), torch.tensor([0.0, 0.3, 1.0]))
        ends = odeint(second, (path[-1], path[1]), torch.tensor([1.0, 0.0]))
        return path, ends[0][-1] + x[:, :1]


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((ROWS, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def graph(inputs: np.ndarray) -> OdeGraph:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return odedeploy.capture(Two().eval(), inputs)


@pytest.mark.parametrize("per_sample", (False, True))
def test_it_answers_as_the_onnx_form_does(
    graph: OdeGraph, inputs: np.ndarray, tmp_path: Path, per_sample: bool
) -> None:
    plan, files = Plan((), control=Control(1e-3, per_sample=per_sample)), []
    for form in (form for name in FORMATS if "adaptive" in (form := find(name)).forms):
        path = tmp_path / f"two{form.suffix}"
        form.build(graph, plan, "adaptive").write(path, {})
        files.append(form.open(path))
    onnx, script = files
    assert (onnx.inputs, onnx.outputs) == (script.inputs, script.outputs)
    assert {s.name: s.dtype for s in onnx.options} == {s.name: s.dtype for s in script.options}
    for options in OPTIONS:
        for x in (inputs, inputs[:1]):
            given, found = (file.run({"x": x, **options}) for file in files)
            assert list(given) == list(found)
            for name, array in given.items():
                assert found[name].shape == array.shape and found[name].dtype == array.dtype
                assert np.allclose(found[name], array, atol=1e-3), name
            assert np.array_equal(found["converged"], given["converged"])
    if per_sample:
        row = script.run({"x": inputs[2:3]})["output_1"][0]
        assert np.array_equal(row, script.run({"x": inputs})["output_1"][2])
    with pytest.raises(BadInput, match="'rtol' takes one positive"):
        script.run({"x": inputs, "rtol": -1})


class Bursting(nn.Module):
    """dy/dt = y², which leaves every bound at t = 1/y₀."""

    def forward(self, x: Tensor) -> Tensor:
        return odeint(lambda t, y: y * y, x, torch.tensor([0.0, 1.0]))[-1]


def test_it_ends_where_there_is_no_solution(tmp_path: Path) -> None:
    graph = odedeploy.capture(Bursting(), np.full((3, 1), 0.1, np.float32))
    form = find("torchscript")
    form.build(graph, Plan((), control=Control(1e-4)), "adaptive").write(tmp_path / "b.pt", {})
    script = form.open(tmp_path / "b.pt")
    easy = script.run({"x": np.array([[0.5]], np.float32)})
    assert np.allclose(easy["output"], 1.0, atol=1e-3) and easy["converged"] == 1
    for start in (2.0, 1e30):
        found = script.run({"x": np.array([[start]], np.float32)})
        assert found["converged"] == 0 and found["evaluations"] <= 10_000
        assert np.isfinite(found["output"]).all()


@pytest.mark.slow
def test_export_from_the_command_line(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("user_model.py"), tmp_path / "mine.py")
    model, written = f"{tmp_path / 'mine.py'}:build", str(tmp_path / "a.pt")
    line = ["export", model, "-o", written, "--tol", "1e-2", "--samples", "60", "--form",
            "adaptive", "--json"]  # fmt: skip
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert (made["format"], made["form"], made["kept"]) == ("torchscript", "adaptive", True)
    assert made["extra"]["control"]["evaluations"]["mean"] > 0
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "a.pt")]).exit_code == 0
    data = (tmp_path / "a.pt").read_bytes()
    for folder in (tmp_path, Path(odedeploy.__file__).parent):
        assert str(folder).encode() not in data
