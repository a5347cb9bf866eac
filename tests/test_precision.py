"""Lower precisions in the runtime: what they change, what they leave alone, and what is chosen."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from odegraphs import GRAPHS, convolution, logistic, run

from odedeploy import metrics, planning, precision
from odedeploy.delivery import deliver
from odedeploy.errors import BadInput, FellShort, UnknownName, Unusable
from odedeploy.evaluator import OnnxEvaluator
from odedeploy.graph import OdeGraph
from odedeploy.grid import Grid
from odedeploy.lowering import lower
from odedeploy.lowering.field import FIELD
from odedeploy.passes import clean
from odedeploy.passes.rewiring import constant
from odedeploy.precision import PRECISIONS
from odedeploy.precision.int8 import WEIGHT
from odedeploy.program import Plan, solve_plan
from odedeploy.reference import solve
from odedeploy.runtime import load
from odedeploy.search import split
from odedeploy.solvers import SOLVERS
from odedeploy.spec import ExportSpec

Arrays = dict[str, np.ndarray]
MODELS: dict[str, tuple[Callable[[], OdeGraph], Callable[[int], Arrays]]] = {
    "conditioned": (
        lambda: GRAPHS["conditioned"](np.float32).graph,
        GRAPHS["conditioned"](np.float32).inputs,
    ),
    "stem_and_head": (
        lambda: GRAPHS["stem_and_head"](np.float32).graph,
        GRAPHS["stem_and_head"](np.float32).inputs,
    ),
    "convolution": (
        convolution,
        lambda n: {"x": np.random.default_rng(n).standard_normal((n, 3, 5, 5)).astype(np.float32)},
    ),
}
BOUND = {"int8": 0.05, "fp16": 2e-3}
"""Largest error that a precision may bring to these models, relative to their largest output."""


def plan_of(steps: int = 3) -> Plan:
    return Plan((solve_plan("solve0", SOLVERS["rk4"], Grid.uniform(0.0, 1.0, steps)),))


def both(name: str, kind: str, steps: int = 3) -> tuple[ir.Model, ir.Model, Arrays]:
    """The plan in fp32 and in ``kind``, and inputs that did not calibrate it."""
    make, inputs = MODELS[name]
    graph, plan = make(), plan_of(steps)
    change = precision.transform(kind, graph, inputs(64))
    return clean(lower(graph, plan)), change(lower(graph, plan), plan), inputs(5)


@pytest.mark.parametrize("kind", BOUND)
@pytest.mark.parametrize("name", MODELS)
def test_a_lower_precision_computes_nearly_the_same(name: str, kind: str) -> None:
    single, lower_, inputs = both(name, kind)
    onnx.checker.check_model(ir.to_proto(lower_), full_check=True)
    for side in ("inputs", "outputs"):
        a, b = getattr(single.graph, side), getattr(lower_.graph, side)
        assert [(v.name, v.dtype, v.shape) for v in a] == [(v.name, v.dtype, v.shape) for v in b]
    for a, b in zip(run(single, inputs), run(lower_, inputs), strict=True):
        assert 0 < np.abs(a - b).max() <= BOUND[kind] * np.abs(a).max()


@pytest.mark.parametrize("name", MODELS)
def test_int8_holds_every_weight_of_the_field_once_and_leaves_the_solver_alone(name: str) -> None:
    single, small, _ = both(name, "int8")
    operators = ("Add", "Sub", "Mul", "Tanh")
    for op_type in operators:
        count = [sum(n.op_type == op_type for n in model.graph) for model in (single, small)]
        assert count[0] == count[1]
    solver = [n for n in small.graph if n.op_type in operators and FIELD not in n.meta]
    assert solver
    for node in solver:
        assert all(v.producer() is None or "Quant" not in v.producer().op_type for v in node.inputs)
    stored = [v for v in small.graph.initializers.values() if v.dtype == ir.DataType.INT8]
    weights = [v for v in stored if len(v.shape) > 1]
    assert len(weights) == 1 and np.abs(constant(weights[0])).max() == WEIGHT
    products = [n for n in small.graph if n.op_type in ("Conv", "Gemm", "MatMul")]
    paired = [n for n in products if n.inputs[1].producer() is not None]
    assert len([n for n in paired if n.inputs[1].producer().op_type == "DequantizeLinear"]) == 12


def test_fp16_keeps_the_state_in_fp32() -> None:
    _, half, _ = both("stem_and_head", "fp16")
    kinds = {(FIELD in n.meta, n.op_type): n.outputs[0].dtype for n in half.graph}
    assert kinds[False, "Add"] == kinds[False, "Mul"] == ir.DataType.FLOAT
    assert kinds[True, "Tanh"] == ir.DataType.FLOAT16
    names = [k for k, v in half.graph.initializers.items() if v.dtype == ir.DataType.FLOAT16]
    assert len(names) == 1


def test_more_evaluations_store_no_more_weights() -> None:
    sizes = []
    for steps in (2, 8):
        _, small, _ = both("convolution", "int8", steps)
        values = small.graph.initializers.values()
        sizes.append(sum(v.const_value.nbytes for v in values if len(v.shape) > 1))
    assert sizes[0] == sizes[1]


def test_a_range_that_fp16_cannot_hold_is_refused_with_the_numbers() -> None:
    make, inputs = MODELS["conditioned"]
    graph, plan = make(), plan_of()
    large = {"x": 1e5 * inputs(8)["x"]}
    with pytest.raises(FellShort, match=r"reaches [\d.e+]+ along the trajectories.*3.28e\+04"):
        precision.transform("fp16", graph, large)(lower(graph, plan), plan)
    precision.transform("bf16", graph, large)(lower(graph, plan), plan)


def test_a_plan_that_overflows_in_fp32_is_left_as_it_is() -> None:
    make, inputs = MODELS["stem_and_head"]
    graph, plan = make(), plan_of()
    broken = {"x": np.full((4, 2), np.inf, np.float32)}
    model = precision.transform("int8", graph, broken)(lower(graph, plan), plan)
    assert not [n for n in model.graph if "Quantize" in n.op_type] and inputs


def test_what_no_precision_reaches_is_refused() -> None:
    graph = GRAPHS["linear"](np.float32).graph
    with pytest.raises(UnknownName, match="no precision 'int3'"):
        precision.transform("int3", graph, {})
    traced = replace(graph, trace=lambda plan: graph.model)
    with pytest.raises(BadInput, match="traced anew"):
        precision.transform("int8", traced, {})
    with pytest.raises(BadInput, match="no Conv, Gemm or MatMul"):
        example = logistic(np.float32)
        change = precision.transform("int8", example.graph, example.inputs(4))
        change(lower(example.graph, plan_of()), plan_of())


def planned(kind: str, tol: float = 0.1, **wishes: Any) -> tuple[OdeGraph, Any]:
    make, inputs = MODELS["stem_and_head"]
    graph = make()
    evaluator = OnnxEvaluator(graph, threads=1)
    graph = replace(graph, evaluator=evaluator)
    spec = ExportSpec(tol=tol, precision=kind, target="cpu-1t", coverage=0.9, **wishes)
    splits = split(inputs(90), spec)
    reference = solve(evaluator, graph.sites, splits.inputs, metrics.of(spec))
    return graph, planning.plan_splits(graph, evaluator, splits, spec, reference)


@pytest.mark.parametrize("kind", BOUND)
def test_an_export_keeps_its_tolerance_in_its_precision(kind: str, tmp_path: Path) -> None:
    graph, plan = planned(kind)
    manifest = deliver(graph, plan, tmp_path / "m.onnx")
    assert manifest.precision == kind and manifest.kept
    assert manifest.error.bound is not None and manifest.error.bound <= 0.1
    assert manifest.quantisation_error is not None and manifest.quantisation_error > 0
    assert manifest.discretisation_error > 0
    model = load(tmp_path / "m.onnx")
    stored = json.loads(model.metadata["odedeploy.manifest"])
    assert stored["quantisation_error"] == manifest.quantisation_error
    assert "odedeploy.graph" not in model.metadata


def test_auto_names_every_contender_and_takes_the_fastest(tmp_path: Path) -> None:
    graph, plan = planned("auto")
    manifest = deliver(graph, plan, tmp_path / "m.onnx")
    contenders = {c["precision"]: c for c in manifest.extra["contenders"]}
    assert set(contenders) == {"fp32", *planning.AUTO}
    assert contenders["fp32"]["ratio"] == 1.0
    chosen = contenders[manifest.precision]
    assert chosen["verdict"] == ("fastest" if manifest.precision == "fp32" else "faster")
    assert all(c["verdict"] for c in contenders.values())


def test_a_precision_that_breaks_the_tolerance_says_by_how_much() -> None:
    with pytest.raises(FellShort, match=r"In int8 the plan of fp32 moves its outputs by [\d.e-]+"):
        planned("int8", tol=1e-5)


@pytest.mark.parametrize("wish", ({"form": "loop"}, {"format": "torchscript"}))
def test_other_forms_and_formats_are_refused(wish: dict[str, str]) -> None:
    with pytest.raises(BadInput, match="int8 is written as unrolled onnx or openvino, not"):
        ExportSpec(tol=0.1, precision="int8", **wish)


def test_bfloat16_runs_or_says_that_it_cannot() -> None:
    try:
        graph, plan = planned("bf16")
    except Unusable as error:
        assert "onnxruntime cannot run bf16 here" in str(error)
    else:
        assert plan.spec.precision == "bf16" and graph.sites


def test_every_precision_in_the_table_is_one_that_can_be_asked_for() -> None:
    for name in PRECISIONS:
        assert ExportSpec(tol=1.0, precision=name).precision == name
