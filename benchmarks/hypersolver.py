"""A hypersolver beside classical and learned plans: its residual network counted in its cost.

    python benchmarks/hypersolver.py [--model smooth|mnist-odenet]… [--steps N]

z' = z + h f(t, z) + h² g(h, t, z, f): Euler with a small network g, trained on the residuals of
Euler's step along reference trajectories. An evaluation of f and one of g together cost
1 + operations of g ÷ operations of f evaluations. Errors are those of single inputs on the split
that nothing else has seen; results/hypersolver.json holds them.

Source: Poli, Massaroli, Yamashita, Asama, Park, *Hypersolvers: Toward Fast Continuous-Depth
Models*, NeurIPS 2020 (arXiv 2007.09601), section 3.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from planner_cases import Case, open_case
from planner_rungs import summary
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from odedeploy.graph import Outcome

RESULTS = Path(__file__).parent / "results" / "hypersolver.json"
EQUAL = (4, 6, 8, 12)
"""Steps, each of one evaluation of the field and one of the residual network."""

FINE = 48
"""Midpoint steps of the trajectories that the residuals are taken from; a multiple of EQUAL."""

ROWS = 128
RATE = 3e-3


class Vectors(nn.Module):
    """g(h, t, z, f) of z and f (batch, d): one hidden layer."""

    def __init__(self, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2 * width + 2, hidden), nn.SiLU(), nn.Linear(hidden, width)
        )

    def forward(self, h: Tensor, t: Tensor, z: Tensor, slope: Tensor) -> Tensor:
        where = torch.stack([h, t]).expand(len(z), 2)
        out: Tensor = self.net(torch.cat([z, slope, where], dim=1))
        return out


class Maps(nn.Module):
    """g(h, t, z, f) of z and f (batch, c, y, x): two convolutions through a few channels."""

    def __init__(self, channels: int, hidden: int = 16) -> None:
        super().__init__()
        self.enter = nn.Conv2d(2 * channels + 2, hidden, kernel_size=3, padding=1)
        self.leave = nn.Conv2d(hidden, channels, kernel_size=3, padding=1)

    def forward(self, h: Tensor, t: Tensor, z: Tensor, slope: Tensor) -> Tensor:
        where = torch.stack([h, t])[None, :, None, None].expand(len(z), 2, *z.shape[2:])
        return self.leave(nn.functional.silu(self.enter(torch.cat([z, slope, where], dim=1))))


def start(case: Case, inputs: dict[str, np.ndarray]) -> Tensor:
    """The state at t = 0."""
    (array,) = inputs.values()
    given = torch.from_numpy(array)
    return case.model.stem(given) if hasattr(case.model, "stem") else given


def finish(case: Case, state: Tensor) -> Tensor:
    """The output of the state at t = 1."""
    return case.model.head(state) if hasattr(case.model, "head") else state


@torch.no_grad()
def trajectories(field: nn.Module, state: Tensor) -> Tensor:
    """States (FINE + 1, batch, …) of the midpoint rule."""
    states, h = [state], torch.tensor(1 / FINE)
    for k in range(FINE):
        t = torch.tensor(k / FINE)
        middle = state + h / 2 * field(t, state)
        state = state + h * field(t + h / 2, middle)
        states.append(state)
    return torch.stack(states)


def train(field: nn.Module, net: nn.Module, states: Tensor, n: int, steps: int) -> None:
    """Fit ``net`` to the residuals of n Euler steps, at random places of the trajectories."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(0)
    skip = FINE // n
    h = torch.tensor(1 / n)
    for _ in range(steps):
        k = int(torch.randint(0, FINE - skip + 1, (), generator=generator))
        rows = torch.randint(0, states.shape[1], (32,), generator=generator)
        t, z, after = torch.tensor(k / FINE), states[k, rows], states[k + skip, rows]
        with torch.no_grad():
            slope = field(t, z)
            residual = (after - z - h * slope) / h**2
        missed = net(h, t, z, slope) - residual
        loss = (missed.flatten(1).norm(dim=1) / residual.flatten(1).norm(dim=1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


@torch.no_grad()
def solve(field: nn.Module, net: nn.Module, state: Tensor, n: int) -> Tensor:
    h = torch.tensor(1 / n)
    for k in range(n):
        t = torch.tensor(k / n)
        slope = field(t, state)
        state = state + h * slope + h**2 * net(h, t, state, slope)
    return state


def share(field: nn.Module, net: nn.Module, state: Tensor) -> float:
    """Operations of ``net`` over those of ``field``."""
    counts = []
    t = torch.tensor(0.0)
    for call in (lambda: field(t, state), lambda: net(t, t, state, state)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call()
        counts.append(counter.get_total_flops())
    return counts[1] / counts[0]


def measure(name: str, steps: int) -> list[dict[str, object]]:
    case = open_case(name, 0, 1024, 1e-3)
    field = case.model.field
    with torch.no_grad():
        states = trajectories(field, start(case, case.study.few(case.splits.fit, ROWS).inputs))
        begin = start(case, case.splits.certify.inputs)
    lines: list[dict[str, object]] = []
    for n in EQUAL:
        torch.manual_seed(0)
        width = states.shape[2]
        net = Maps(width) if states.dim() == 5 else Vectors(width)
        train(field, net, states, n, steps)
        with torch.no_grad():
            output = finish(case, solve(field, net, begin, n)).numpy()
        (key,) = case.reference.outcome.outputs
        errors = case.reference.errors(Outcome({key: output}, {}), case.splits.certify.rows)
        cost = n * (1 + share(field, net, begin[:8]))
        lines.append({"model": name, "steps": n, "evaluations": cost, **summary(errors)})
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", action="append", choices=["smooth", "mnist-odenet"])
    parser.add_argument("--steps", type=int, default=1500, help="of training, for each n")
    arguments = parser.parse_args()
    lines = [
        line
        for name in arguments.model or ["smooth", "mnist-odenet"]
        for line in measure(name, arguments.steps)
    ]
    RESULTS.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
