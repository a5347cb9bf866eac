"""Fixed-step calls are the model: the file gives what the library's own fixed grid gives."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from patterns import PATTERNS
from test_capture import FIXED_METHODS, OPTIONS, _torchdiffeq
from torch import nn
from torchdiffeq import odeint

import odedeploy
from odedeploy.formats import find
from odedeploy.frontends.probing import probe
from odedeploy.graph import OdeGraph
from odedeploy.program import Plan

Captured = tuple[nn.Module, torch.Tensor, OdeGraph]


@pytest.fixture(scope="module")
def captured() -> Captured:
    model, inputs = PATTERNS["nonuniform_trajectory"]()
    return model, inputs["y"], odedeploy.capture(model, inputs)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("method", FIXED_METHODS)
def test_file_reproduces_the_fixed_grid(
    method: str, options: str, captured: Captured, tmp_path: Path
) -> None:
    model, rows, graph = captured
    times = torch.tensor(model.times)
    solver = partial(_torchdiffeq, method=method, options=dict(OPTIONS[options]))
    plan = Plan((probe(solver, times, graph.sites[0].name, method),))
    find("onnx").build(graph, plan, "unrolled").write(tmp_path / "m.onnx", {})
    with torch.no_grad():
        expected = odeint(model.field, rows, times, method=method, options=dict(OPTIONS[options]))
    found = odedeploy.load(tmp_path / "m.onnx")(rows.numpy())
    assert np.abs(found - expected.numpy()).max() <= 1e-6 * np.abs(expected.numpy()).max()
