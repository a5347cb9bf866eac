"""What the solver inside the artefact costs beyond its evaluations.

Latency of the mnist-odenet artefact ÷ (NFE × bare field + stem and head), all in onnxruntime,
batch 1, one thread, interleaved in one process.

    python benchmarks/overhead.py [--rounds 60]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import odedeploy
from odedeploy import api
from odedeploy.formats import find
from odedeploy.graph import OdeGraph
from odedeploy.grid import Grid
from odedeploy.program import Plan, Program, SolvePlan, solve_plan
from odedeploy.solvers import find as find_solver

CASES = (("euler", 16), ("midpoint", 16), ("rk4", 16), ("ab3_euler", 12), ("ab3_euler", 16))


class FieldAt(nn.Module):
    """The vector field at one time, as an ordinary network of the state."""

    def __init__(self, field: nn.Module, time: float) -> None:
        super().__init__()
        self.field = field
        self.time = time

    def forward(self, state: Tensor) -> Tensor:
        return self.field(torch.tensor(self.time), state)


def write(graph: OdeGraph, plan: Plan, path: Path) -> Callable[[np.ndarray], object]:
    form = find("onnx")
    form.build(graph, plan, "unrolled").write(path, {})
    model = odedeploy.load(path, threads=1)
    (spec,) = model.inputs
    return lambda array: model.run({spec.name: array}, check=False)


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def calls(folder: Path) -> dict[object, Callable[[], object]]:
    """The bare field, stem and head, and the artefact of every case, each on its own input."""
    loaded = api.load_model("mnist-odenet")
    image = loaded.inputs["image"][:1]
    graph = api.capture(loaded.module, loaded.inputs)
    with torch.no_grad():
        state = loaded.module.stem(torch.from_numpy(image)).numpy()
    field = api.capture(FieldAt(loaded.module.field, 0.5), np.repeat(state, 8, 0))
    none = Plan((SolvePlan("solve0", "none", Grid.uniform(0, 1, 1), Program((), (0, 0))),))
    bare = write(field, Plan(()), folder / "field.onnx")
    rest = write(graph, none, folder / "rest.onnx")
    made: dict[object, Callable[[], object]] = {
        "field": lambda: bare(state), "rest": lambda: rest(image)
    }  # fmt: skip
    for solver, nfe in CASES:
        method = find_solver(solver)
        steps = method.steps(nfe)
        assert steps is not None
        plan = Plan((solve_plan("solve0", method, Grid.uniform(0, 1, steps)),))
        whole = write(graph, plan, folder / f"{solver}{nfe}.onnx")
        made[solver, nfe] = partial(whole, image)
    return made


def measured(
    made: dict[object, Callable[[], object]], rounds: int, repeats: int
) -> dict[object, np.ndarray]:
    """Median seconds of each call, one per round, the calls interleaved."""
    for warm in made.values():
        median_seconds(warm, 20)
    samples: dict[object, list[float]] = {name: [] for name in made}
    for _ in range(rounds):
        for name, call in made.items():
            many = repeats if name in ("field", "rest") else repeats // 4
            samples[name].append(median_seconds(call, many))
    return {name: np.array(values) for name, values in samples.items()}


def row(case: tuple[str, int], samples: dict[object, np.ndarray]) -> dict[str, object]:
    """Ratio of a case, paired round by round, with its 95 % bootstrap interval."""
    floor = case[1] * samples["field"] + samples["rest"]
    ratios = samples[case] / floor
    resampled = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    interval = np.percentile(np.median(resampled, 1), [2.5, 97.5])
    return {
        "solver": case[0], "nfe": case[1],
        "latency_ms": round(1e3 * float(np.median(samples[case])), 3),
        "floor_ms": round(1e3 * float(np.median(floor)), 3),
        "ratio": round(float(np.median(ratios)), 3),
        "interval": [round(float(end), 3) for end in interval],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=40)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = measured(calls(Path(folder)), arguments.rounds, arguments.repeats)
    rows = [row(case, samples) for case in CASES]
    field_us, rest_us = (1e6 * float(np.median(samples[n])) for n in ("field", "rest"))
    print(f"bare field {field_us:.0f} µs, stem and head {rest_us:.0f} µs (batch 1, one thread)\n")
    print("| solver | NFE | artefact, ms | NFE × field + rest, ms | ratio | 95 % interval |")
    print("|---|---|---|---|---|---|")
    for each in rows:
        low, high = each["interval"]
        print(f"| {each['solver']} | {each['nfe']} | {each['latency_ms']} | {each['floor_ms']} "
              f"| {each['ratio']} | {low} – {high} |")  # fmt: skip
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "overhead.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
