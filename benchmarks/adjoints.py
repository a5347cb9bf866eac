"""Gradient errors of the adjoint and the checkpointed adjoint where running backwards diverges.

du/dt = −λ u, dv/dt = w tanh u on [0, 1], 32 rows: a transient that dies out and a slow state that
it feeds. Run back from t = 1, where u is e^−λ of what it was, its errors grow by e^λ, and the
gradient of Σ v(1)² by w is an integral of tanh u. Gradients by λ and w in float32,
dopri5 at 1e-5 both ways, against backpropagation through a float64 solve at 1e-12; states are what
is kept meanwhile.

    python benchmarks/adjoints.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

from odedeploy.models.solves import segmented

RESULTS = Path(__file__).parent / "results" / "adjoints.json"
OPTIONS: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5, "method": "dopri5"}
TIMES = torch.tensor([0.0, 1.0])


class Transient(nn.Module):
    """y holds u and v, (batch, 2, 4)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate))
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 4))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        u = y[:, 0]
        return torch.stack([-self.rate * u, self.weight * torch.tanh(u)], dim=1)


Solve = Callable[[nn.Module, Tensor], Tensor]
WAYS: dict[str, Solve] = {
    "adjoint": lambda f, y: odeint_adjoint(f, y, TIMES, **OPTIONS)[-1],
    "adjoint, seminorm": lambda f, y: odeint_adjoint(
        f, y, TIMES, **OPTIONS, adjoint_options={"norm": "seminorm"}
    )[-1],
    "checkpointed, 2 states": lambda f, y: segmented(f, y, 0.0, 1.0, segments=2, **OPTIONS),
    "checkpointed, 8 states": lambda f, y: segmented(f, y, 0.0, 1.0, segments=8, **OPTIONS),
    "backpropagation": lambda f, y: odeint(f, y, TIMES, **OPTIONS)[-1],
}


def gradient(solve: Solve, rate: float, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Of Σ y(1)² by all parameters, and what was kept for it, in states."""
    field = Transient(rate).to(dtype)
    start = torch.randn(32, 2, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    start.requires_grad_()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = solve(field, start)[:, 1].square().sum()
    states = sum(kept.values()) / start.numel()
    loss.backward()
    grads = [p.grad.flatten() for p in field.parameters() if p.grad is not None]
    return torch.cat(grads).double(), states


def tight(field: nn.Module, start: Tensor) -> Tensor:
    end: Tensor = odeint(field, start, TIMES.double(), rtol=1e-12, atol=1e-12, method="dopri5")[-1]
    return end


def main() -> None:
    rows = []
    for rate in (5.0, 10.0, 20.0):
        exact, _ = gradient(tight, rate, torch.float64)
        for name, solve in WAYS.items():
            row: dict[str, Any] = {"rate": rate, "way": name}
            try:
                found, states = gradient(solve, rate, torch.float32)
                error = ((found - exact).norm() / exact.norm()).item()
                row |= {"gradient_error": float(f"{error:.3g}"), "states": round(states, 1)}
            except AssertionError as error:  # torchdiffeq asserts that the state stays finite
                row |= {"failed": str(error)}
            rows.append(row)
            print(row, flush=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
