"""Peak memory and time of one training step: the adjoint against backpropagation.

Twice: the MNIST ODE-Net with a solve of 8 … 512 evaluations (RK4, equal steps), batch 16; and the
models of the MNIST table as their recipes train them, batch 128, the ODE-Net at 1e-2 and at 1e-5.
Each point has processes of its own, of one thread: in the first, memory is the growth of the
resident set over a step of the optimiser, with every tensor in a mapping of its own; in the second
seconds are those of the core, the lesser of two steps.

    python benchmarks/memory.py [--evaluations 8 16 …] [--models mnist-mlp …]
    python benchmarks/memory.py --plot    draws docs/memory.png from the results
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchdiffeq import odeint_adjoint

from odedeploy import models
from odedeploy.models.mnist_mlp import Mlp
from odedeploy.models.mnist_odenet import OdeNet
from odedeploy.models.mnist_resnet import ResNet
from odedeploy.models.mnist_rknet import RkNet
from odedeploy.models.solves import segmented

RESULTS = Path(__file__).parent / "results" / "memory.json"
PLOT = Path(__file__).parents[1] / "docs" / "memory.png"
EVALUATIONS = (8, 16, 32, 64, 128, 256, 512)
SMALL, BATCH = 16, 128


def adjoint(evaluations: int) -> nn.Module:
    options = {"step_size": 4 / evaluations}

    def through(field: nn.Module, start: Tensor, t0: float, t1: float) -> Tensor:
        times = torch.tensor([t0, t1])
        end: Tensor = odeint_adjoint(field, start, times, method="rk4", options=options)[-1]
        return end

    model = OdeNet()
    model.through = through
    return model


def backpropagation(evaluations: int) -> nn.Module:
    return RkNet(method="rk4", steps=evaluations // 4)


def odenet(tolerance: float) -> nn.Module:
    model, _ = models.build("mnist-odenet")
    model.tolerance = model.adjoint_tolerance = tolerance  # type: ignore[assignment]
    return model.train()


def checkpointed(evaluations: int) -> nn.Module:
    """As many states are kept as a segment has steps."""
    segments = 2 ** round(math.log2(evaluations / 4) / 2)
    options = {"step_size": 4 / evaluations}

    def through(field: nn.Module, start: Tensor, t0: float, t1: float) -> Tensor:
        ends = field, start, t0, t1
        return segmented(*ends, segments=segments, method="rk4", options=options)

    model = OdeNet()
    model.through = through
    return model


WAYS: dict[str, Callable[[int], nn.Module]] = {
    "adjoint": adjoint,
    "checkpointed adjoint": checkpointed,
    "backpropagation": backpropagation,
}
TABLE: dict[str, Callable[[], nn.Module]] = {
    "mnist-mlp": Mlp,
    "mnist-resnet": ResNet,
    "mnist-rknet": RkNet,
    "mnist-odenet at 1e-2": lambda: odenet(1e-2),
    "mnist-odenet at 1e-5": lambda: odenet(1e-5),
}


def step_of(model: nn.Module, batch: int) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 1, 28, 28, generator=generator)
    labels = torch.randint(10, (batch,), generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def resident(which: str) -> float:
    """``VmRSS``, or its peak ``VmHWM``, of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{which}:"))
    return int(line.split()[1]) / 1024


def memory(model: nn.Module, batch: int) -> float:
    """Peak growth in MB in one step of the model."""
    step_of(model, 2)()  # loads what a first step loads
    model.zero_grad(set_to_none=True)
    step = step_of(model, batch)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    step()
    return round(resident("VmHWM") - before, 2)


def seconds(model: nn.Module, batch: int) -> float:
    """Of the core in one step of the model."""
    step = step_of(model, batch)
    step()
    found = []
    for _ in range(2):
        start = time.process_time()
        step()
        found.append(time.process_time() - start)
    return round(min(found), 4)


MEASURES = {"peak_mb": (memory, {"MALLOC_MMAP_THRESHOLD_": "4096"}), "seconds": (seconds, {})}
"""What is measured, and in which environment: tensors of a page or more are mapped, and given back
to the system when they are freed, where memory is."""


def point(*what: str) -> dict[str, float]:
    """One point, measured in processes of its own."""
    found = {}
    for measure, (_, environment) in MEASURES.items():
        command = [sys.executable, __file__, "--point", measure, *what]
        alone = os.environ | environment | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=alone, capture_output=True, check=True)
        found[measure] = json.loads(done.stdout)
    print(*what, found, flush=True)
    return found


def keep(place: Sequence[str], found: dict[str, float]) -> None:
    """Write one point into the results, beside what is there."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows = results
    for name in place[:-1]:
        rows = rows.setdefault(name, {})
    rows[place[-1]] = found
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def plot(results: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), dpi=120)
    looks = zip(WAYS, ("#0072B2", "#009E73", "#D55E00"), ("o", "^", "s"), strict=True)
    for way, colour, marker in looks:
        measured = results.get("depth", {}).get(way, {})
        rows = dict(sorted(measured.items(), key=lambda row: int(row[0])))
        x = [int(n) for n in rows]
        for axes, key in ((left, "peak_mb"), (right, "seconds")):
            y = [row[key] for row in rows.values()]
            axes.plot(x, y, marker=marker, color=colour, label=way)
    left.set_ylabel("peak memory of a training step, MB")
    right.set_ylabel("seconds of a training step, one core")
    marks = {left: (10, 20, 50, 100, 200, 500), right: (0.1, 0.2, 0.5, 1, 2, 5)}
    for axes, ticks in marks.items():
        axes.set(xscale="log", yscale="log", xlabel="evaluations of the vector field")
        axes.set_xticks(EVALUATIONS, [str(n) for n in EVALUATIONS])
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--evaluations", type=int, nargs="*", default=EVALUATIONS)
    parser.add_argument("--models", nargs="*", default=list(TABLE), choices=list(TABLE))
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--point", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--plot", action="store_true")
    arguments = parser.parse_args()
    if arguments.point:
        measure, name, *evaluations = arguments.point
        torch.set_num_threads(1)
        model = WAYS[name](int(evaluations[0])) if evaluations else TABLE[name]()
        print(json.dumps(MEASURES[measure][0](model, SMALL if evaluations else BATCH)))
        return
    if not arguments.plot:
        for name in arguments.models:
            keep(("models", name), point(name))
        for way in arguments.ways:
            for n in arguments.evaluations:
                keep(("depth", way, str(n)), point(way, str(n)))
    plot(json.loads(RESULTS.read_text()))


if __name__ == "__main__":
    main()
