from __future__ import annotations

import numpy as np
import pytest
from odegraphs import A, B, Example, linear, logistic, run

from odedeploy.grid import Grid
from odedeploy.lowering import lower
from odedeploy.program import Plan, solve_plan
from odedeploy.solvers import SOLVERS
from odedeploy.tableau import Method

LINEAR = {1: (64, 128, 256), 2: (32, 64, 128), 3: (16, 32, 64), 4: (12, 24, 48)}
LOGISTIC = {
    1: (32, 64, 128),
    2: (32, 64, 128),
    3: (96, 192),
    4: (16, 32, 64),
    5: (24, 32, 48),
    8: (6, 8, 12),
}
"""Steps that are fine enough for the leading error term and coarse enough for float64, by order."""


def exact_linear(y0: np.ndarray) -> np.ndarray:
    """The solution of dy/dt = A y + b t: the exponential of the system with (t, 1) appended."""
    system = np.zeros((5, 5))
    system[:3, :3], system[:3, 3], system[3, 4] = A, B, 1.0
    term, total = np.eye(5), np.eye(5)
    for k in range(1, 60):
        term = term @ system * (2.0 / k)
        total = total + term
    start = np.concatenate([y0, np.zeros((len(y0), 1)), np.ones((len(y0), 1))], axis=1)
    return (start @ total.T)[:, :3]


def exact_logistic(y0: np.ndarray) -> np.ndarray:
    """The solution of dy/dt = cos(2t) y (1 − y/3), logistic growth in sin(2t)/2."""
    return 3 / (1 + (3 / y0 - 1) * np.exp(-np.sin(2.0) / 2))


def order(
    example: Example, end: float, truth: np.ndarray, method: Method, steps: tuple[int, ...]
) -> float:
    """Slope of the lowered file's error over the number of steps, in onnxruntime."""
    errors = []
    for n in steps:
        plan = Plan((solve_plan("solve0", method, Grid.uniform(0.0, end, n)),))
        (out,) = run(lower(example.graph, plan), example.inputs(4))
        errors.append(np.linalg.norm(out - truth))
    assert min(errors) > 1e-14, "the finest steps are below the round-off of float64"
    return float(-np.polyfit(np.log(steps), np.log(errors), 1)[0])


@pytest.mark.parametrize("name", [name for name, m in SOLVERS.items() if m.order in LINEAR])
def test_the_lowered_file_converges_at_the_declared_order(name: str) -> None:
    method, example = SOLVERS[name], linear(np.float64, (0.0, 2.0))
    truth = exact_linear(example.inputs(4)["x"])
    measured = order(example, 2.0, truth, method, LINEAR[method.order])
    assert measured == pytest.approx(method.order, abs=0.15)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_nonlinear_field_does_not_lower_the_order(name: str) -> None:
    """A linear field leaves most order conditions untested; methods above order 4 converge
    faster on it than they declare until the error is round-off.
    """
    method, example = SOLVERS[name], logistic(np.float64)
    truth = exact_logistic(example.inputs(4)["x"])
    measured = order(example, 1.0, truth, method, LOGISTIC[method.order])
    assert measured >= method.order - 0.15
    if method.order not in LINEAR:
        assert measured == pytest.approx(method.order, abs=0.15)
