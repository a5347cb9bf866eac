"""What a fixed-step solve costs in onnxruntime, against what it cannot do without.

One thread, batch 1 and 64, everything of one table interleaved in one process. For each model:

* solver: latency of the artefact ÷ (evaluations × bare field + what is not the solve), RK4 × 4.
  A bare field as a file of its own pays for a call of the runtime each time, which is most of a
  small one; as what 8 more of them in a row add to a file, it pays for none (``over_chain``);
* plain export: latency of the same plan unrolled in PyTorch and written by ``torch.onnx.export``
  ÷ latency of the artefact;
* floor: multiplications and additions of all Conv, Gemm and MatMul at the rate that one matrix
  product of 512 × 512 reaches on this machine ÷ latency of the artefact;
* where onnxruntime spends the rest, by operator (``--profile``), and, with ``--solvers``, the
  first ratio for other solvers on mnist-odenet.

    python benchmarks/overhead.py [--rounds 60] [--models mlp …] [--solvers] [--profile]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from fields import MODELS, FieldAt, Repeated, Unrolled, load, stem
from torch import nn

from odedeploy import api
from odedeploy.formats import find
from odedeploy.graph import OdeGraph
from odedeploy.grid import Grid
from odedeploy.program import Plan, Program, SolvePlan, solve_plan
from odedeploy.solvers import find as find_solver

CASES = (("euler", 16), ("midpoint", 16), ("rk4", 16), ("ab3_euler", 12), ("ab3_euler", 16))
BATCHES = (1, 64)
SHORT, LONG = 4, 12
"""Fields in a row."""
Call = Callable[[], object]


def plan_of(solver: str = "rk4", nfe: int = 16) -> Plan:
    method = find_solver(solver)
    steps = method.steps(nfe)
    assert steps is not None
    return Plan((solve_plan("solve0", method, Grid.uniform(0, 1, steps)),))


def session(path: Path, **wishes: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for name, value in wishes.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def caller(path: Path, array: np.ndarray) -> Call:
    opened = session(path)
    feed = {opened.get_inputs()[0].name: array}
    return lambda: opened.run(None, feed)


def write(graph: OdeGraph, plan: Plan, path: Path) -> Path:
    find("onnx").build(graph, plan, "unrolled").write(path, {})
    return path


def plain(model: nn.Module, example: np.ndarray, path: Path) -> Path:
    """``torch.onnx.export`` of the unrolled module, batch dynamic."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Unrolled(model.requires_grad_(False), plan_of()).eval(), (torch.from_numpy(example),),
            path, dynamo=True, verbose=False, external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    return path


def files(name: str, folder: Path, solvers: bool) -> tuple[dict[Any, Path], np.ndarray, np.ndarray]:
    """The files of one model, its inputs and the states that its solve starts from."""
    model, inputs = load(name)
    with torch.no_grad():
        states = stem(model, torch.from_numpy(inputs[: max(BATCHES)])).numpy()
    graph = api.capture(model, inputs)
    field = api.capture(FieldAt(model.field, 0.5), states)
    chains = {n: api.capture(Repeated(model.field, n).eval(), states) for n in (SHORT, LONG)}
    none = Plan((SolvePlan("solve0", "none", Grid.uniform(0, 1, 1), Program((), (0, 0))),))
    made: dict[Any, Path] = {
        "field": write(field, Plan(()), folder / "field.onnx"),
        **{n: write(chain, Plan(()), folder / f"{n}.onnx") for n, chain in chains.items()},
        "rest": write(graph, none, folder / "rest.onnx"),
        "artefact": write(graph, plan_of(), folder / "artefact.onnx"),
    }
    if solvers:
        for case in CASES:
            made[case] = write(graph, plan_of(*case), folder / f"{case[0]}{case[1]}.onnx")
    else:
        made["plain"] = plain(model, inputs[:2].copy(), folder / "plain.onnx")
    return made, inputs, states


def measured(calls: dict[Any, Call], rounds: int, repeats: int) -> dict[Any, np.ndarray]:
    """Least processor seconds of a few calls in a row, one number a round, calls interleaved."""
    for call in calls.values():
        for _ in range(3):
            call()
    samples: dict[Any, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            least = np.inf
            for _ in range(repeats):
                began = time.process_time()
                call()
                least = min(least, time.process_time() - began)
            samples[name].append(least)
    return {name: np.array(values) for name, values in samples.items()}


def ratio(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Median of the ratios, paired round by round, with its 95 % bootstrap interval."""
    ratios = a / b
    resampled = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(resampled, 1), [2.5, 97.5])
    return {"ratio": round(float(np.median(ratios)), 3), "low": round(float(low), 3),
            "high": round(float(high), 3)}  # fmt: skip


def operations(path: Path, batch: int) -> float:
    """Multiplications and additions of the products that run after loading."""
    import onnx

    optimised = path.with_suffix(".folded.onnx")
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session(path, graph_optimization_level=level, optimized_model_filepath=str(optimised))
    model = onnx.shape_inference.infer_shapes(onnx.load(optimised))
    shapes = {w.name: list(w.dims) for w in model.graph.initializer}
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = [d.dim_value if d.HasField("dim_value") else batch for d in dims]
    total = 0.0
    for node in model.graph.node:
        if node.op_type == "Conv":
            weight = shapes[node.input[1]]
            total += 2 * np.prod(weight) * np.prod(shapes[node.output[0]][2:]) * batch
        elif node.op_type in ("Gemm", "MatMul", "FusedGemm"):
            total += 2 * np.prod(shapes[node.input[1]]) * batch
    return float(total)


def peak(folder: Path, size: int = 512) -> tuple[Call, float]:
    """A call that multiplies two matrices in onnxruntime, and its operations."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    matrix = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    shape = [size, size]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "peak",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(matrix, "w")],
    )  # fmt: skip
    path = folder / "peak.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return caller(path, matrix), 2.0 * size**3


def rows_of(name: str, folder: Path, rounds: int, solvers: bool) -> list[dict[str, Any]]:
    made, inputs, states = files(name, folder, solvers)
    product, flops = peak(folder)
    rows = []
    for batch in BATCHES:
        given = {k: states if k in ("field", SHORT, LONG) else inputs for k in made}
        calls = {k: caller(path, given[k][:batch]) for k, path in made.items()}
        found = measured({**calls, "peak": product}, rounds if batch == 1 else rounds // 3,
                         10 if batch == 1 else 2)  # fmt: skip
        single = (found[LONG] - found[SHORT]) / (LONG - SHORT)
        cases: Sequence[Any] = CASES if solvers else ("artefact",)
        for case in cases:
            nfe = case[1] if solvers else 16
            row: dict[str, Any] = {
                "model": name, "batch": batch, "solver": case[0] if solvers else "rk4", "nfe": nfe,
                "latency_us": round(1e6 * float(np.median(found[case])), 1),
                "over_floor": ratio(found[case], nfe * found["field"] + found["rest"]),
                "over_chain": ratio(found[case], nfe * single + found["rest"]),
            }  # fmt: skip
            if not solvers:
                least = found["peak"].min() * operations(made["artefact"], batch) / flops
                row["plain_over_artefact"] = ratio(found["plain"], found["artefact"])
                row["floor_share"] = round(float(least / found["artefact"].min()), 3)
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def by_operator(path: Path, array: np.ndarray, runs: int = 30) -> list[tuple[str, float]]:
    """Share of the kernel time by operator, as onnxruntime's own profiler has it."""
    opened = session(path, enable_profiling=True, profile_file_prefix=str(path.with_suffix("")))
    for _ in range(runs):
        opened.run(None, {opened.get_inputs()[0].name: array})
    events = json.loads(Path(opened.end_profiling()).read_text())
    spent: Counter[str] = Counter()
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"]
    return [(op, round(t / sum(spent.values()), 3)) for op, t in spent.most_common()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--solvers", action="store_true")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    results = Path(__file__).parent / "results" / "overhead.json"
    results.parent.mkdir(exist_ok=True)
    known = json.loads(results.read_text()) if results.exists() else []
    known = known if isinstance(known, dict) else {}
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            if arguments.profile:
                model, inputs = load(name)
                path = write(api.capture(model, inputs), plan_of(), folder / "artefact.onnx")
                known[f"{name}, by operator"] = by_operator(path, inputs[:64])
            else:
                key = f"{name}, solvers" if arguments.solvers else name
                known[key] = rows_of(name, folder, arguments.rounds, arguments.solvers)
        results.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
