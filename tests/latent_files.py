"""An accurate file of a model with one solve, opened in onnxruntime."""

from __future__ import annotations

import odedeploy
from odedeploy import api, models
from odedeploy.formats import find
from odedeploy.grid import Grid
from odedeploy.program import Plan, solve_plan
from odedeploy.solvers import find as find_solver


def write(model, inputs, folder, steps):
    """The file of ``model`` with ``steps`` steps of RK4."""
    graph = api.capture(model, {key: array[:24] for key, array in inputs.items()})
    grid = Grid.uniform(0, 1, steps)
    plan = Plan((solve_plan(graph.sites[0].name, find_solver("rk4"), grid),))
    path = folder / "accurate.onnx"
    find("onnx").build(graph, plan, "unrolled").write(path, {})
    return odedeploy.load(path, threads=1)


def shipped(name, folder, steps=8):
    """A reference model, its calibration inputs, and its file."""
    model, inputs = models.build(name)
    return model, inputs, write(model, inputs, folder, steps)
