"""What each regulariser saves: the MNIST ODE-Net fine-tuned for 250 steps with and without it.

Batch 64, AdamW with a one-cycle rate up to 2e-3, from the shipped weights of ``mnist-odenet``. Each
is then exported at 1e-2 with classical plans: evaluations of the certified file, its error on
MNIST's 10,000 test digits, and dopri5's evaluations at 1e-4, in one batch of 512 digits.

    python benchmarks/regularisers.py [--data DIR] [--only kinetic=1 …]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator

import odedeploy
from odedeploy import api, models
from odedeploy.models import classification, mnist, regularisers
from odedeploy.models.mnist_odenet import OdeNet
from odedeploy.models.tasks import Weighted
from odedeploy.spec import ExportSpec

RESULTS = Path(__file__).parent / "results" / "regularisers.json"
TRIED = ("", "kinetic=1", "jacobian=1", "local-error=10", "end-time=0.5",
         "jacobian=0.3 local-error=10")  # fmt: skip
STEPS, BATCH, RATE = 250, 64, 2e-3
TOL, SAMPLES = 1e-2, 640


def tuned(weights: Weighted, data: Path | None) -> tuple[OdeNet, dict[str, float]]:
    """The model after its steps, and the means of the last fifty losses and penalties."""
    model, _ = models.build("mnist-odenet")
    assert isinstance(model, OdeNet)
    images, labels = classification.tensors(mnist.load("train", data))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.25)
    seen: list[dict[str, float]] = []
    for step in range(STEPS):
        generator = Generator().manual_seed(step)
        rows = torch.randint(len(labels), (BATCH,), generator=generator)
        batch = classification.jitter(images[rows], generator), labels[rows]
        solve = regularisers.RegularisedSolve(weights, generator)
        model.through = solve
        loss, _ = classification.loss(model, batch)
        model.through = None
        total = loss + sum(dict(weights)[name] * p for name, p in solve.penalties.items())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seen.append({"loss": loss.item(), **{n: p.item() for n, p in solve.penalties.items()}})
    last = seen[-50:]
    return model.eval(), {key: round(sum(s[key] for s in last) / 50, 5) for key in last[0]}


def judged(model: OdeNet, data: Path | None) -> dict[str, Any]:
    """What the exported file needs and gets right, and what dopri5 needs at 1e-4."""
    _, inputs = models.build("mnist-odenet")
    spec = ExportSpec(tol=TOL, solver="classical", samples=SAMPLES)
    graph = api.capture(model, inputs)
    planned = api.plan(graph, inputs, spec=spec)
    digits = mnist.load("test", data)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        manifest = api.export(graph, planned, path)
        session = odedeploy.load(path, threads=1)
        pixels = mnist.pixels(digits.images)
        parts = [session(pixels[i : i + 500]).argmax(1) for i in range(0, len(pixels), 500)]
    return {
        "evaluations": manifest.plan["nfe"], "solver": manifest.plan["solver"],
        "bound": manifest.error.bound, "dopri5_evaluations": adaptive(model, inputs["image"]),
        "test_error": float(np.mean(np.concatenate(parts) != digits.labels)),
    }  # fmt: skip


@torch.no_grad()
def adaptive(model: OdeNet, images: np.ndarray) -> int:
    before, model.tolerance = model.evaluations, 1e-4
    model(torch.from_numpy(images[:512]))
    return model.evaluations - before


def report(found: dict[str, dict[str, Any]]) -> None:
    print("| regulariser | solver | certified evaluations at 1e-2 | dopri5 at 1e-4 | test error |")
    print("|---|---|---|---|---|")
    for name, row in found.items():
        print(f"| {name} | `{row['solver']}` | {row['evaluations']} | {row['dopri5_evaluations']} "
              f"| {row['test_error']:.2%} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="+", default=TRIED)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for text in arguments.only:
        model, losses = tuned(regularisers.parse(text.split()), arguments.data)
        found = {**judged(model, arguments.data), **losses}
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        known[text or "none"] = found
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        print(text or "none", found, flush=True)
    report(json.loads(RESULTS.read_text()))


if __name__ == "__main__":
    main()
