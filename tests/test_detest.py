"""The adaptive form on the DETEST problems beside torchdiffeq's dopri5."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detest import END, PROBLEMS, Problem
from odegraphs import run
from torchdiffeq import odeint

import odedeploy
from odedeploy.lowering import lower
from odedeploy.passes import clean
from odedeploy.program import Control, Plan

QUICK = ("A1", "A2", "A3")
"""Problems that the quick tests solve."""


def theirs(problem: Problem, tol: float) -> tuple[np.ndarray, int]:
    """The state at the end by torchdiffeq, and its evaluations."""
    count = 0

    def field(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return problem.field(t, y)

    times = torch.tensor([0.0, END], dtype=torch.float64)
    end = odeint(field, problem.initial(), times, rtol=tol, atol=tol, method="dopri5")[-1]
    return end.numpy(), count


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in PROBLEMS]
)
def test_it_is_solved_as_torchdiffeq_solves_it(name: str) -> None:
    problem = PROBLEMS[name]
    start = problem.initial()
    graph = odedeploy.capture(problem.model(), start.repeat(3, 1))
    model = clean(lower(graph, Plan((), control=Control()), "adaptive"))
    for tol in (1e-3, 1e-6):
        tolerance = np.array(tol)
        given, evaluations, converged = run(
            model, {"x": start.numpy(), "rtol": tolerance, "atol": tolerance}
        )
        end, count = theirs(problem, tol)
        assert converged == 1 and evaluations <= 1.3 * count
        assert np.abs(given - end).max() <= 10 * tol * max(1.0, np.abs(end).max())
