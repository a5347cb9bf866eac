"""Axes besides the batch that a model itself calls dynamic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchdiffeq import odeint

import odedeploy
from odedeploy.errors import BadInput, CaptureRefused
from odedeploy.formats import find
from odedeploy.frontends import capture, live
from odedeploy.graph import input_specs
from odedeploy.grid import Grid
from odedeploy.program import Plan, solve_plan
from odedeploy.solvers import find as find_solver

INPUTS = {
    "points": np.random.default_rng(0).normal(size=(6, 7, 2)).astype(np.float32),
    "offset": np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32),
}


class Pooled(nn.Module):
    """The mean of any number of points, carried by an ODE."""

    dynamic_axes = {"points": {1: "count"}}

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(2, 2)

    def forward(self, points, offset):
        def field(t, y):
            return torch.tanh(self.net(y)) + offset

        return odeint(field, points.mean(dim=1), torch.tensor([0.0, 1.0]))[-1]


class Read(Pooled):
    """The same by a GRU, whose steps tracing unrolls."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(2, 2, batch_first=True)

    def forward(self, points, offset):
        return super().forward(self.gru(points)[0], offset)


def test_a_named_axis_is_free_in_the_file(tmp_path):
    graph = capture(Pooled(), INPUTS)
    assert input_specs(graph.model)[0].shape == ("batch", "count", 2)
    site = graph.sites[0].name
    plan = Plan((solve_plan(site, find_solver("rk4"), Grid.uniform(0, 1, 3)),))
    find("onnx").build(graph, plan, "unrolled").write(tmp_path / "pooled.onnx", {})
    session = odedeploy.load(tmp_path / "pooled.onnx", threads=1)
    for count in (1, 2, 7, 40):
        given = INPUTS | {"points": np.resize(INPUTS["points"], (6, count, 2))}
        expected = live(graph).run(plan, given, "float32").outputs["output"]
        np.testing.assert_allclose(session.run(given)["output"], expected, atol=1e-5)


def test_an_axis_that_the_answer_cannot_follow_is_refused():
    with pytest.raises(CaptureRefused, match="cannot be captured"):
        capture(Read(), INPUTS | {"points": INPUTS["points"][:, :3]})


def test_an_axis_of_no_input_is_refused():
    class Misnamed(Pooled):
        dynamic_axes = {"dots": {1: "count"}}

    with pytest.raises(BadInput, match="dynamic_axes names 'dots'; the inputs are points, offset"):
        capture(Misnamed(), INPUTS)
