"""Cost of a sample against the batch that it comes in: a file with fixed steps, torchdiffeq beside.

The file is the certified one for ``--tol`` in onnxruntime, and so is the file in which every sample
has steps of its own. torchdiffeq runs the model's own forward in PyTorch without gradients, dopri5
at the loosest of its tolerances 10⁻¹ … 10⁻⁵ that keeps ``--tol`` for 99 % of 512 inputs run in
batches of 64, as the file does. One thread, everything interleaved round by round.

    python benchmarks/batching.py [--rounds 30] [--models cnf-moons …]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

import odedeploy
from odedeploy import api, models
from odedeploy.spec import ExportSpec
from odedeploy.tolerance import floor_of, relative_error

RESULTS = Path(__file__).parent / "results" / "batching.json"
MODELS = ("cnf-moons", "cnf-moons-sampler", "cnf-tabular")
BATCHES = (1, 4, 16, 64, 256, 1024)
TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)
ALONE = 64
"""The largest batch of the file whose samples run one after the other."""

Inputs = dict[str, np.ndarray]
Call = Callable[[], object]
Row = dict[str, Any]


class Solving(Protocol):
    tolerance: float
    field: Any

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tol", type=float, default=1e-2)
    parser.add_argument("--models", nargs="+", default=MODELS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in asked.models:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measured(name, asked.tol, asked.rounds, Path(folder))
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        report(name, found[name])


def measured(name: str, tol: float, rounds: int, folder: Path) -> Row:
    loaded = api.load_model(name)
    spec = ExportSpec(tol=tol, budget=60)
    fixed = api.deploy(loaded, spec, folder / "fixed.onnx")
    own = replace(spec, form="adaptive", per_sample=True, samples=700)
    control = api.deploy(loaded, own, folder / "own.onnx").extra["control"]
    model, inputs = models.build(name)
    model.tolerance = loosest(model, inputs, tol)
    sessions = {key: odedeploy.load(folder / f"{key}.onnx", threads=1) for key in ("fixed", "own")}
    rows = []
    for batch in BATCHES:
        given = take(inputs, 0, batch)
        calls: dict[str, Call] = {
            key: partial(session.run, given, check=False) for key, session in sessions.items()
        }
        if batch > ALONE:
            del calls["own"]
        calls["torchdiffeq"] = partial(solve, model, given)
        before = model.field.evaluations
        solve(model, given)
        rows.append({"batch": batch, "evaluations": model.field.evaluations - before,
                     **compared(timed(calls, rounds), batch)})  # fmt: skip
    return {"tol": tol, "nfe": fixed.plan["nfe"], "solver": fixed.plan["solver"],
            "bound": fixed.error.bound, "torchdiffeq_tolerance": model.tolerance,
            "own_evaluations": control["evaluations"], "batches": rows}  # fmt: skip


@torch.no_grad()
def solve(model: Solving, inputs: Inputs) -> np.ndarray:
    return model(*map(torch.from_numpy, inputs.values())).numpy()


def take(inputs: Inputs, first: int, count: int) -> Inputs:
    return {key: array[first : first + count] for key, array in inputs.items()}


def loosest(model: Solving, inputs: Inputs, tol: float, count: int = 512, batch: int = 64) -> float:
    """The loosest of ``TOLERANCES`` whose relative error is at most ``tol`` for 99 % of inputs."""
    starts = range(0, count, batch)

    def answers(tolerance: float) -> np.ndarray:
        model.tolerance = tolerance
        return np.concatenate([solve(model, take(inputs, first, batch)) for first in starts])

    truth = answers(1e-6)
    for tolerance in TOLERANCES:
        errors = relative_error(answers(tolerance), truth, floor_of(truth))
        if np.quantile(errors, 0.99) <= tol:
            return tolerance
    raise SystemExit(f"No tolerance of dopri5 keeps {tol:g}.")


def timed(calls: dict[str, Call], rounds: int) -> dict[str, np.ndarray]:
    """Least seconds of three calls in a row, one number a round, the calls interleaved."""
    samples: dict[str, list[float]] = {key: [] for key in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for key, call in calls.items():
            least = np.inf
            for _ in range(3):
                began = time.perf_counter()
                call()
                least = min(least, time.perf_counter() - began)
            samples[key].append(least)
    return {key: np.array(values) for key, values in samples.items()}


def compared(seconds: dict[str, np.ndarray], batch: int) -> Row:
    """Microseconds a sample, and torchdiffeq ÷ file: median of the rounds, 95 % bootstrap."""
    ratios = seconds["torchdiffeq"] / seconds["fixed"]
    resampled = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(resampled, 1), [2.5, 97.5])
    us = {key: round(float(np.median(s)) / batch * 1e6, 2) for key, s in seconds.items()}
    return {"us_per_sample": us, "torchdiffeq_over_file": {
        "ratio": round(float(np.median(ratios)), 2), "low": round(float(low), 2),
        "high": round(float(high), 2)}}  # fmt: skip


def report(name: str, found: Row) -> None:
    print(f"\n{name}: {found['solver']} with {found['nfe']} evaluations; dopri5 at "
          f"{found['torchdiffeq_tolerance']:g}")  # fmt: skip
    print("| batch | file, µs a sample | own steps, µs | torchdiffeq, µs | its evaluations "
          "| torchdiffeq ÷ file |\n|---|---|---|---|---|---|")  # fmt: skip
    for row in found["batches"]:
        us, ratio = row["us_per_sample"], row["torchdiffeq_over_file"]
        own = f"{us['own']:.0f}" if "own" in us else "–"
        print(f"| {row['batch']} | {us['fixed']:.1f} | {own} | {us['torchdiffeq']:.1f} "
              f"| {row['evaluations']} | {ratio['ratio']:.1f} ({ratio['low']:.1f} … "
              f"{ratio['high']:.1f}) |")  # fmt: skip


if __name__ == "__main__":
    main()
