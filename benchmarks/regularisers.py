"""What each regulariser saves: the MNIST ODE-Net fine-tuned for 250 steps with and without it.

Batch 64, AdamW with a one-cycle rate up to 2e-3, from the shipped weights of ``mnist-odenet``. Then
the fewest evaluations that keep the 0.99 quantile of the error of the logits at 1e-2, over 512
held-out digits against a solve at 1e-5, by equal steps of a Runge–Kutta method of order 1 to 4;
dopri5's own evaluations at 1e-4; and the share of those digits that are read wrong.

    python benchmarks/regularisers.py [--data DIR] [--only kinetic=1 …]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torchdiffeq import odeint

from odedeploy import models
from odedeploy.models import classification, mnist, regularisers
from odedeploy.models.mnist_odenet import OdeNet
from odedeploy.models.tasks import Weighted

RESULTS = Path(__file__).parent / "results" / "regularisers.json"
TRIED = ("", "kinetic=1", "jacobian=1", "local-error=10", "end-time=0.5",
         "jacobian=0.3 local-error=10")  # fmt: skip
METHODS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
STEPS, BATCH, RATE, MOST = 250, 64, 2e-3, 24


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


@torch.no_grad()
def judged(model: OdeNet, digits: int = 512) -> dict[str, Any]:
    shipped = mnist.shipped()
    labels = torch.from_numpy(shipped.labels[:digits].astype("int64"))
    start = model.stem(torch.from_numpy(mnist.pixels(shipped.images[:digits])))
    times = torch.tensor([0.0, 1.0])

    def logits(**options: Any) -> Tensor:
        out: Tensor = model.head(odeint(model.field, start, times, **options)[-1])
        return out

    exact = logits(method="dopri5", rtol=1e-5, atol=1e-5)
    before = model.evaluations
    logits(method="dopri5", rtol=1e-4, atol=1e-4)
    adaptive = model.evaluations - before
    best: tuple[int, str, float] = (MOST + 1, "none", 1.0)
    for method, stages in METHODS.items():
        for steps in range(1, (best[0] - 1) // stages + 1):
            found = logits(method=method, options={"step_size": 1 / steps})
            error = ((found - exact).norm(dim=1) / exact.norm(dim=1)).quantile(0.99).item()
            if error <= 1e-2:
                best = (steps * stages, method, error)
                break
    wrong = (exact.argmax(1) != labels).float().mean().item()
    return {
        "evaluations": best[0], "solver": best[1], "error": round(best[2], 5),
        "dopri5_evaluations": adaptive, "wrong": round(wrong, 5),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="+", default=TRIED)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for text in arguments.only:
        model, losses = tuned(regularisers.parse(text.split()), arguments.data)
        found = {**judged(model), **losses}
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        known[text or "none"] = found
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        print(text or "none", found, flush=True)


if __name__ == "__main__":
    main()
