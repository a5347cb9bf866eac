"""Seconds and memory of capturing a model with many solves, and a large one.

"twelve" solves one ODE after another twelve times, with a jump in between; "unet" is torchcfm's
U-Net of 35.7 million parameters on 3 × 64 × 64, solved by dopri5 and lowered with 16 evaluations.
Each runs in a process of its own.

    python benchmarks/capture_cost.py
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

import odedeploy
from odedeploy.formats import find as find_format
from odedeploy.grid import Grid
from odedeploy.program import Plan, solve_plan
from odedeploy.solvers import find

RESULTS = Path(__file__).parent / "results" / "capture_cost.json"
EVALUATIONS = 16

Built = tuple[nn.Module, dict[str, Tensor]]


class Twelve(nn.Module):
    """x (batch, 8) → (batch, 8): twelve solves of one field, a linear jump before each."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 8))
        self.jumps = nn.ModuleList(nn.Linear(8, 8) for _ in range(12))

    def forward(self, x: Tensor) -> Tensor:
        for k, jump in enumerate(self.jumps):
            times = torch.tensor([float(k), float(k + 1)])
            x = odeint(lambda t, y: self.net(y), jump(x), times)[-1]
        return x


class Sampler(nn.Module):
    """noise (batch, 3, 64, 64) → images of the same shape."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, noise: Tensor) -> Tensor:
        return odeint(lambda t, x: self.network(t, x), noise, torch.tensor([0.0, 1.0]))[-1]


def twelve() -> Built:
    return Twelve(), {"x": torch.randn(8, 8)}


def unet() -> Built:
    from torchcfm.models.unet.unet import UNetModelWrapper

    network = UNetModelWrapper(
        dim=(3, 64, 64), num_channels=128, num_res_blocks=2, channel_mult=(1, 2, 2, 2),
        num_heads=4, num_head_channels=64, attention_resolutions="16",
    )  # fmt: skip
    for parameter in network.parameters():  # equal weights, as zeros are, would be stored once
        nn.init.normal_(parameter, std=0.02)
    return Sampler(network), {"noise": torch.randn(4, 3, 64, 64)}


CASES: dict[str, Callable[[], Built]] = {"twelve": twelve, "unet": unet}


def measure(name: str) -> dict[str, float]:
    torch.manual_seed(0)
    model, inputs = CASES[name]()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    arrays = {key: tensor.numpy() for key, tensor in inputs.items()}
    began = time.monotonic()
    graph = odedeploy.capture(model.eval(), arrays)
    captured = time.monotonic()
    each = EVALUATIONS // 4 if len(graph.sites) == 1 else 1
    plan = Plan(
        tuple(solve_plan(s.name, find("rk4"), Grid.through(s.times, each)) for s in graph.sites)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        find_format("onnx").build(graph, plan, "unrolled").write(path, {})
        size = path.stat().st_size
    return {
        "parameters": sum(p.numel() for p in model.parameters()), "solves": len(graph.sites),
        "evaluations": plan.evaluations, "capture_seconds": round(captured - began, 1),
        "lower_and_write_seconds": round(time.monotonic() - captured, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "file_to_weights": round(size / weights, 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    case = parser.parse_args().case
    if case is not None:
        print(json.dumps(measure(case)))
        return
    found = {}
    for name in CASES:
        answer = subprocess.run(
            [sys.executable, __file__, "--case", name], check=True, stdout=subprocess.PIPE
        )
        found[name] = json.loads(answer.stdout)
        print(name, found[name], flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
