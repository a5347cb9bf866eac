"""The forms of mnist-odenet side by side: latency, loading, size, a fixed batch, adaptive steps.

Processor seconds, one thread, batch 1, interleaved in one process; ratios round by round.

    python benchmarks/forms.py [--rounds 30]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from torchdiffeq import odeint

from odedeploy import api
from odedeploy.graph import OdeGraph
from odedeploy.grid import Grid
from odedeploy.lowering import lower
from odedeploy.passes import clean
from odedeploy.program import Control, Plan, solve_plan
from odedeploy.solvers import find

STEPS = (4, 16, 64)
TOLERANCE = 1e-3


def session(data: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def seconds(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def ratio(a: Callable[[], Any], b: Callable[[], Any], rounds: int) -> tuple[float, float, float]:
    """Median ratio of ``a`` to ``b``, and the seconds of both."""
    for warm in (a, b, a, b):
        warm()
    pairs = np.array([(seconds(a), seconds(b)) for _ in range(rounds)])
    return float(np.median(pairs[:, 0] / pairs[:, 1])), *np.median(pairs, 0).tolist()


def written(graph: OdeGraph, steps: int, form: str) -> bytes:
    plan = Plan((solve_plan("solve0", find("rk4"), Grid.uniform(0.0, 1.0, steps)),))
    return ir.to_proto(clean(lower(graph, plan, form))).SerializeToString()


def forms(graph: OdeGraph, image: np.ndarray, rounds: int) -> list[dict[str, object]]:
    weights = sum(
        value.const_value.nbytes
        for value in graph.model.graph.initializers.values()
        if value.const_value is not None
    )
    rows = []
    for steps in STEPS:
        files = {form: written(graph, steps, form) for form in ("unrolled", "loop")}
        loads = {
            form: min(seconds(lambda data=data: session(data)) for _ in range(5))
            for form, data in files.items()
        }
        unrolled, loop = (session(files[form]) for form in ("unrolled", "loop"))
        found = ratio(
            lambda s=loop: s.run(None, {"image": image}),
            lambda s=unrolled: s.run(None, {"image": image}),
            max(5, rounds * STEPS[0] // steps),
        )
        rows.append(
            {
                "steps": steps,
                "loop_to_unrolled": round(found[0], 3),
                "loop_ms": round(1e3 * found[1], 3),
                "unrolled_ms": round(1e3 * found[2], 3),
                **{f"load_{form}_ms": round(1e3 * s, 1) for form, s in loads.items()},
                **{f"size_{f}": round(len(data) / weights, 3) for f, data in files.items()},
            }
        )
    return rows


def fixed_batch(graph: OdeGraph, image: np.ndarray, rounds: int) -> dict[str, object]:
    """A file for one input beside one for any number of them, RK4 × 4."""
    files = [written(replace(graph, batch=batch), 4, "unrolled") for batch in (1, None)]
    one, any_ = map(session, files)
    found = ratio(
        lambda: one.run(None, {"image": image}), lambda: any_.run(None, {"image": image}),
        5 * rounds,
    )  # fmt: skip
    return {"fixed_to_any": round(found[0], 3), "bytes": [len(data) for data in files]}


def adaptive(
    graph: OdeGraph, model: torch.nn.Module, images: np.ndarray, rounds: int
) -> dict[str, object]:
    """The adaptive form beside torchdiffeq at the same tolerance, and the spread of its cost."""
    plan = Plan((), control=Control(TOLERANCE))
    data = ir.to_proto(clean(lower(graph, plan, "adaptive")))
    made = session(data.SerializeToString())
    torch.set_num_threads(1)

    def eager(image: np.ndarray) -> tuple[np.ndarray, int]:
        count = 0

        def field(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += 1
            return model.field(t, y)

        with torch.inference_mode():
            state = model.stem(torch.from_numpy(image))
            span = torch.tensor([0.0, 1.0])
            end = odeint(field, state, span, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5")[-1]
            return model.head(end).numpy(), count

    one = images[:1]
    found = ratio(lambda: made.run(None, {"image": one}), lambda: eager(one), rounds)
    counts, evaluations, apart = [], [], []
    for i in range(len(images)):
        ours, spent, _ = made.run(None, {"image": images[i : i + 1]})
        theirs, count = eager(images[i : i + 1])
        counts.append(count)
        evaluations.append(int(spent))
        apart.append(float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)))
    return {
        "tolerance": TOLERANCE,
        "to_torchdiffeq": round(found[0], 3),
        "adaptive_ms": round(1e3 * found[1], 3),
        "torchdiffeq_ms": round(1e3 * found[2], 3),
        "evaluations": {str(n): evaluations.count(n) for n in sorted(set(evaluations))},
        "evaluations_to_torchdiffeq": round(sum(evaluations) / sum(counts), 3),
        "largest_difference": float(f"{max(apart):.3g}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--images", type=int, default=64)
    arguments = parser.parse_args()
    loaded = api.load_model("mnist-odenet")
    graph = api.capture(loaded.module, loaded.inputs)
    images = loaded.inputs["image"][: arguments.images]
    result = {
        "forms": forms(graph, images[:1], arguments.rounds),
        "fixed_batch": fixed_batch(graph, images[:1], arguments.rounds),
        "adaptive": adaptive(graph, loaded.module, images, arguments.rounds),
    }
    print(json.dumps(result, indent=1))
    results = Path(__file__).parent / "results"
    (results / "forms.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
