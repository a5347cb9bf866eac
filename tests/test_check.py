"""A model locked to its solver is caught, an ODE is not; every finding is a measurement."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from locked_models import genuine, locked
from torch import nn
from torchdiffeq import odeint
from typer.testing import CliRunner

import odedeploy
from odedeploy import api
from odedeploy.checking import CHECKS, VERDICTS, Check
from odedeploy.cli import app
from odedeploy.errors import BadInput
from odedeploy.frontends.loading import Loaded
from odedeploy.spec import ExportSpec

HERE = Path(__file__).parent


class Flow(nn.Module):
    """A planar field given as a function; every state is its own output."""

    def __init__(self, field, method: str = "dopri5", end: float = 1.0, rtol: float = 1e-6) -> None:
        super().__init__()
        self.field, self.method, self.rtol, self.end = field, method, rtol, end
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        times = torch.tensor([0.0, self.end])
        f = lambda t, y: self.scale * self.field(t, y)  # noqa: E731
        return odeint(f, x, times, method=self.method, rtol=self.rtol, atol=self.rtol)[-1]


def examined(field, rows: int = 16, tol: float = 1e-2, **options) -> Check:
    inputs = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))
    return odedeploy.check(Flow(field, **options), inputs, tol)


def values(check: Check, name: str) -> dict:
    return next(finding for finding in check.findings if finding.name == name).values


def outcome(check: Check, name: str) -> str:
    return next(finding for finding in check.findings if finding.name == name).outcome


@pytest.fixture(scope="module")
def rotation() -> Check:
    turn = torch.tensor([[0.0, -2.0], [2.0, 0.0]])
    return examined(lambda t, y: y @ turn.to(y.dtype).T)


@pytest.fixture(scope="module")
def of_locked() -> Check:
    return odedeploy.check(*locked())


def test_two_euler_steps_are_caught(of_locked: Check) -> None:
    assert of_locked.verdict == "solver-locked" and of_locked.target == "map"
    lock = values(of_locked, "lock")
    assert lock["classes_changed"] > 0.1 and lock["distance"]["quantile"] > 0.1
    refined = lock["refined"]
    assert refined["h"] < 1e-4 and refined["v_shaped"]
    assert min(refined["h/2"], refined["h/4"], refined["2h"]) > 0.1


def test_an_ode_solved_well_is_genuine() -> None:
    check = odedeploy.check(*genuine())
    assert check.verdict == "genuine" and check.genuine and check.target == "solution"
    lock = values(check, "lock")
    assert lock["distance"]["quantile"] <= 1e-2 and lock["classes_changed"] <= 0.05
    assert not lock["refined"]["v_shaped"]
    assert values(check, "order")["field"] == "smooth"


def test_every_check_reports_and_goes_into_json(rotation: Check) -> None:
    data = json.loads(json.dumps(rotation.to_json()))
    assert list(data["findings"]) == list(CHECKS) and data["verdict"] in VERDICTS
    for finding in data["findings"].values():
        assert finding["outcome"] in ("good", "note", "bad", "unknown")
        assert finding["words"].endswith(".")


def test_a_rotation_is_measured_exactly(rotation: Check) -> None:
    """The Jacobian is 2·(a quarter turn): ρ·T = L·T = 2, purely imaginary, and invertible."""
    assert rotation.genuine
    assert values(rotation, "lipschitz")["solve0"]["product"] == pytest.approx(2, rel=1e-3)
    stiff = values(rotation, "stiffness")["solve0"]
    assert stiff["radius"] == pytest.approx(2, rel=1e-2) and abs(stiff["direction"]) < 0.1
    assert values(rotation, "reversibility")["solve0"]["error_128"] < 1e-7
    observed = values(rotation, "order")["observed"]
    for name, declared in (("euler", 1), ("midpoint", 2), ("rk4", 4)):
        assert observed[name] == pytest.approx(declared, abs=0.15)


def test_lipschitz_constant_of_a_shear_exceeds_its_spectral_radius() -> None:
    shear = torch.tensor([[0.0, 3.0], [0.0, 0.0]])
    check = examined(lambda t, y: y @ shear.to(y.dtype).T)
    assert values(check, "lipschitz")["solve0"]["product"] == pytest.approx(3, rel=1e-3)


def test_kinks_and_jumps_are_told_from_smooth_fields() -> None:
    kinked = examined(lambda t, y: torch.relu(t - 0.37 + 0.1 * y) - y)
    assert values(kinked, "order")["field"] == "kinked" and kinked.genuine
    jumping = examined(lambda t, y: torch.sign(t - 0.37 + 0.1 * y) - y, tol=0.1, rtol=1e-2)
    assert values(jumping, "order")["field"] != "smooth"


def test_stiff_decay_is_noticed_and_not_reversible() -> None:
    check = examined(lambda t, y: -60 * (y - torch.cos(3 * t)), rtol=1e-5)
    assert outcome(check, "stiffness") == "note"
    assert values(check, "stiffness")["solve0"]["radius"] == pytest.approx(60, rel=0.05)
    assert outcome(check, "reversibility") == "note"
    assert check.genuine


def test_weights_that_are_not_finite() -> None:
    model = Flow(lambda t, y: -y)
    with torch.no_grad():
        model.scale.fill_(1.0)
    model.register_buffer("unused", torch.tensor([1.0, float("nan")]))
    check = odedeploy.check(model, torch.randn(8, 2))
    assert check.verdict == "broken" and "unused" in values(check, "weights")["not_finite"]


def test_a_model_without_a_solve_is_refused() -> None:
    with pytest.raises(BadInput, match="solves no ODE"):
        odedeploy.check(nn.Linear(2, 2), torch.randn(8, 2))


# -- what export makes of it ----------------------------------------------------------------------


def test_a_locked_model_is_exported_as_the_map_it_is(tmp_path: Path) -> None:
    model, inputs = locked()
    graph = odedeploy.capture(model, inputs)
    path = tmp_path / "m.onnx"
    manifest = odedeploy.export(graph, odedeploy.plan(graph, inputs, 1e-3), path)
    assert manifest.plan["nfe"] == 2 and "as written" in manifest.reference["of"]
    with torch.no_grad():
        truth = model(inputs).numpy()
    np.testing.assert_allclose(odedeploy.load(path)(inputs.numpy()), truth, rtol=1e-4, atol=1e-4)


def test_replanning_a_locked_model_is_refused(tmp_path: Path) -> None:
    model, inputs = locked()
    loaded = Loaded("locked", model, {"x": inputs.numpy()})
    with pytest.raises(BadInput, match=r"locked to its own solver.*drop --replan"):
        api.deploy(loaded, ExportSpec(tol=0.05, replan=True), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_loose_solve_is_warned_of(tmp_path: Path) -> None:
    """rtol = 0.5 is far from the solution, which is what the file answers with."""
    field = lambda t, y: 3 * torch.stack([-y[:, 1], y[:, 0]], dim=1) / (0.2 + y.norm(dim=1)[:, None])  # noqa: E731, E501
    model = Flow(field, method="bosh3", rtol=0.5, end=2.0)
    inputs = torch.randn(60, 2, generator=torch.Generator().manual_seed(1))
    graph = odedeploy.capture(model, inputs)
    spec = ExportSpec(tol=0.02, coverage=0.9, solver="rk4")
    planned = odedeploy.plan(graph, inputs, spec=spec)
    manifest = odedeploy.export(graph, planned, tmp_path / "m.onnx")
    assert len(manifest.warnings) == 1
    assert "differs from the solution" in manifest.warnings[0]
    assert odedeploy.load(tmp_path / "m.onnx").manifest.warnings == manifest.warnings
    assert manifest.reference["of"] == "the solution of the ODE"


# -- the command ----------------------------------------------------------------------------------


def test_command_ends_with_the_verdict() -> None:
    runner = CliRunner()
    found = runner.invoke(app, ["check", f"{HERE / 'locked_models.py'}:locked", "--json"])
    assert found.exit_code == 1
    data = json.loads(found.stdout)
    assert data["verdict"] == "solver-locked" and data["target"] == "map"
    found = runner.invoke(app, ["check", f"{HERE / 'user_model.py'}:build"])
    assert found.exit_code == 0 and "is genuine" in found.stdout
