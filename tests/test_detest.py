"""The adaptive form on the DETEST problems beside torchdiffeq's dopri5."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detest import END, PROBLEMS
from odegraphs import run

TOLERANCES = (1e-3, 1e-6)

SLOW = ("A3", "A5", "B3", "B5", "C2", "C3", "C4", "C5", "E1", "E2", "E3", "E5")
"""Like others, but for a vector field of their own."""

ALIKE = 5e-6
"""PyTorch's exporter rounds the numbers in a field to float32, and E3 amplifies that by 100."""

INTERPOLATED = {("D1", 1e-3): 20}
"""In tolerances, how far apart the two may be where torchdiffeq's interpolant at the end is off."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in PROBLEMS]
)
def test_it_is_solved_as_torchdiffeq_solves_it(name: str) -> None:
    """Step for step where torchdiffeq, too, ends at the end; by itself it steps on, then
    interpolates."""
    problem = PROBLEMS[name]
    model = problem.adaptive()
    for tol in TOLERANCES:
        given, evaluations, converged = run(
            model, {"x": problem.initial().numpy(), "rtol": np.array(tol), "atol": np.array(tol)}
        )
        wishes = {"rtol": tol, "atol": tol}
        last = {"step_t": torch.tensor([END], dtype=torch.float64)}
        same, spent = problem.solved(**wishes, options=last)
        assert converged == 1 and evaluations == spent
        size = max(1.0, np.abs(same).max())
        assert np.abs(given - same).max() <= ALIKE * size
        theirs, count = problem.solved(**wishes)
        apart = np.abs(given - theirs).max() / size
        assert apart <= INTERPOLATED.get((name, tol), 10) * tol and evaluations <= 1.3 * count
