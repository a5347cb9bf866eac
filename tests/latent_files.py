"""An accurate file of a reference model, opened in onnxruntime."""

from __future__ import annotations

import odedeploy
from odedeploy import api, models
from odedeploy.formats import find
from odedeploy.grid import Grid
from odedeploy.program import Plan, solve_plan
from odedeploy.solvers import find as find_solver


def accurate(name, folder, steps=8):
    """The shipped model, its calibration inputs, and its file with ``steps`` steps of RK4."""
    model, inputs = models.build(name)
    graph = api.capture(model, {key: array[:24] for key, array in inputs.items()})
    grid = Grid.uniform(0, 1, steps)
    plan = Plan((solve_plan(graph.sites[0].name, find_solver("rk4"), grid),))
    path = folder / f"{name}.onnx"
    find("onnx").build(graph, plan, "unrolled").write(path, {})
    return model, inputs, odedeploy.load(path, threads=1)
