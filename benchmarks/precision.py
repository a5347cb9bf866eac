"""Lower precisions of one plan: the two parts of its error, its size, and its latency.

RK4 × 4 on one thread, batch 1 and 64, interleaved in one process. Discretisation error is the plan
in fp32 against 64 steps in float64, quantisation error the file against the plan in fp32, both
relative per input, the 99 % quantile over 256 inputs that did not calibrate.

    python benchmarks/precision.py [--models mnist-odenet …] [--rounds 40]

``odedeploy export mnist-odenet --tol 3e-2 --precision auto -o m.onnx`` searches in each precision
and takes the fastest.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from fields import MODELS, load
from overhead import BATCHES, caller, measured, plan_of, ratio

from odedeploy import api, precision
from odedeploy.lowering import lower
from odedeploy.passes import clean
from odedeploy.precision import ROWS
from odedeploy.tolerance import worst_error

PRECISIONS = ("fp32", "int8", "fp16")


def quantile(errors: np.ndarray) -> float:
    return float(np.sort(errors)[int(np.ceil(0.99 * len(errors))) - 1])


def rows_of(name: str, folder: Path, rounds: int) -> list[dict[str, Any]]:
    model, inputs = load(name)
    graph, plan = api.capture(model, inputs), plan_of()
    key = graph.model.graph.inputs[0].name or ""
    calibration, fresh = {key: inputs[:ROWS]}, inputs[-256:]
    assert graph.evaluator is not None
    single = graph.evaluator.run(plan, {key: fresh}, "float32").outputs
    exact = graph.evaluator.run(plan_of("rk4", 256), {key: fresh}, "float64").outputs
    (output,) = single
    paths = {}
    for kind in PRECISIONS:
        lowered = lower(graph, plan)
        if kind == "fp32":
            written = clean(lowered)
        else:
            written = precision.transform(kind, graph, calibration)(lowered, plan)
        paths[kind] = folder / f"{kind}.onnx"
        ir.save(written, paths[kind])
    found: dict[str, dict[str, Any]] = {}
    for kind, path in paths.items():
        answers = np.asarray(caller(path, fresh)()[0])  # type: ignore[index]
        found[kind] = {
            "model": name, "precision": kind, "bytes": path.stat().st_size,
            "discretisation": quantile(worst_error(single, exact)),
            "quantisation": quantile(worst_error({output: answers}, single)),
            "whole": quantile(worst_error({output: answers}, exact)),
        }  # fmt: skip
    for batch in BATCHES:
        calls = {kind: caller(path, inputs[:batch]) for kind, path in paths.items()}
        samples = measured(calls, rounds if batch == 1 else rounds // 4, 10 if batch == 1 else 2)
        for kind in PRECISIONS:
            found[kind][f"latency_over_fp32_at_{batch}"] = ratio(samples[kind], samples["fp32"])
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows_of(name, Path(folder), arguments.rounds):
                rows.append(row)
                print(json.dumps(row), flush=True)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "precision.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
