"""Plans in onnxruntime: the NumPy definition in both precisions, and every float64 operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
import torchless
from odegraphs import GRAPHS, Builder, convolution, linear

from odedeploy.errors import BadInput
from odedeploy.evaluator import OnnxEvaluator
from odedeploy.graph import OdeGraph
from odedeploy.grid import Grid
from odedeploy.lowering.double import FLOAT32_ONLY, widened
from odedeploy.passes import clean
from odedeploy.program import Plan, interpret, solve_plan
from odedeploy.solvers import SOLVERS
from odedeploy.tolerance import Tolerance

RK4 = Plan((solve_plan("solve0", SOLVERS["rk4"], Grid.uniform(0.0, 1.0, 4)),))
PRECISION = {"float64": Tolerance.ROUND_OFF, "float32": Tolerance.FLOAT32}


@pytest.mark.parametrize("precision", PRECISION)
@pytest.mark.parametrize("name", GRAPHS)
def test_a_plan_computes_what_its_program_means(name: str, precision: str) -> None:
    """In float64 with the weights as they are in the float32 graph."""
    example = GRAPHS[name](np.float32)
    inputs = {k: a.astype(precision) for k, a in example.inputs(200).items()}
    outcome = OnnxEvaluator(example.graph).run(RK4, inputs, precision)
    states = interpret(RK4.solves[0].program, example.field(inputs), example.initial(inputs))
    for given, wanted in zip(outcome.outputs.values(), example.finish(states), strict=True):
        assert given.dtype == precision and given.shape == wanted.shape
        assert np.abs(given - wanted).max() <= PRECISION[precision] * np.abs(wanted).max()
    last = states[-1] if isinstance(states[-1], tuple) else (states[-1],)
    for given, wanted in zip(outcome.states.values(), last, strict=True):
        assert np.abs(given - wanted).max() <= PRECISION[precision] * np.abs(wanted).max()
    assert list(outcome.states) == (["solve0"] if len(last) == 1 else ["solve0.0", "solve0.1"])


def test_a_trajectory_comes_batch_first() -> None:
    times = (0.0, 0.25, 1.0)
    example = linear(np.float32, times, last=False)
    plan = Plan((solve_plan("solve0", SOLVERS["rk4"], Grid.through(times, 4)),))
    trajectory = ir.Shape([3, "batch", 3])
    example.graph.model.graph.outputs[0].shape = trajectory
    outcome = OnnxEvaluator(example.graph).run(plan, example.inputs(5), "float32")
    assert outcome.outputs["out"].shape == (5, 3, 3)
    assert outcome.states["solve0"].shape == (5, 3)


def test_the_transformation_is_what_runs() -> None:
    example = linear(np.float32)
    seen = []

    def transform(model: ir.Model, plan: Plan) -> ir.Model:
        seen.append(plan)
        return clean(model)

    evaluator, inputs = OnnxEvaluator(example.graph, transform), example.inputs(3)
    plain = OnnxEvaluator(example.graph).run(RK4, inputs, "float32").outputs["out"]
    for _ in range(2):
        given = evaluator.run(RK4, inputs, "float32").outputs["out"]
        assert np.abs(given - plain).max() <= Tolerance.FLOAT32 * np.abs(plain).max()
    assert seen == [RK4]


def test_bad_input() -> None:
    example = linear(np.float32)
    evaluator = OnnxEvaluator(example.graph)
    with pytest.raises(BadInput, match="not 'fp16'"):
        evaluator.run(RK4, example.inputs(2), "fp16")
    with pytest.raises(BadInput, match=r"\['x'\] are missing"):
        evaluator.run(RK4, {}, "float32")
    traced = replace(example.graph, trace=lambda plan: example.graph.model)
    with pytest.raises(BadInput, match="traced from PyTorch in float32"):
        OnnxEvaluator(traced).run(RK4, example.inputs(2), "float64")


def test_the_graph_is_left_untouched() -> None:
    graph = convolution()
    before = ir.to_proto(graph.model).SerializeToString(deterministic=True)
    widened(graph)
    assert ir.to_proto(graph.model).SerializeToString(deterministic=True) == before


RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((2, 4, 7, 6)).astype(np.float32)
KERNEL = RNG.standard_normal((5, 4, 3, 2)).astype(np.float32)
BIAS = RNG.standard_normal(5).astype(np.float32)
SCALE = RNG.standard_normal(4).astype(np.float32)
OPERATORS: dict[str, tuple[str, list[np.ndarray], dict[str, Any], Callable[..., Any]]] = {
    "convolution": ("Conv", [KERNEL], {}, F.conv2d),
    "strided": (
        "Conv", [KERNEL, BIAS], {"strides": (2, 1), "dilations": (1, 2), "pads": (1, 2, 1, 2)},
        lambda x, w, b: F.conv2d(x, w, b, (2, 1), (1, 2), (1, 2)),
    ),
    "instance norm": (
        "InstanceNormalization", [SCALE, BIAS[:4]], {"epsilon": 2.0**-10},
        lambda x, w, b: F.instance_norm(x, None, None, w, b, eps=2.0**-10),
    ),
    "global average": ("GlobalAveragePool", [], {}, lambda x: x.mean((2, 3), keepdim=True)),
    "softplus": ("Softplus", [], {}, lambda x: F.softplus(x, threshold=1e3)),
    "elu": ("Elu", [], {"alpha": 0.5}, lambda x: F.elu(x, 0.5)),
    "leaky relu": ("LeakyRelu", [], {"alpha": 0.25}, lambda x: F.leaky_relu(x, 0.25)),
}  # fmt: skip


def single(op_type: str, weights: list[np.ndarray], attributes: dict[str, Any]) -> OdeGraph:
    """A model of one operator and no solve."""
    m = Builder(np.dtype(np.float32))
    x = m.value("x", ["batch", *IMAGE.shape[1:]])
    values = [m.weight(f"w{i}", array) for i, array in enumerate(weights)]
    out = m.op(op_type, x, *values, name="out", shape=["batch", None, None, None], **attributes)
    return OdeGraph(m.model([x], [out], []), ())


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_without_a_float64_kernel_are_written_in_others(name: str) -> None:
    op_type, weights, attributes, function = OPERATORS[name]
    graph = single(op_type, weights, attributes)
    given = OnnxEvaluator(graph).run(Plan(()), {"x": IMAGE}, "float64").outputs["out"]
    wanted = function(*(torch.from_numpy(a.astype(np.float64)) for a in (IMAGE, *weights))).numpy()
    assert given.shape == wanted.shape
    assert np.abs(given - wanted).max() <= Tolerance.ROUND_OFF * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("op_type", "weights", "attributes", "function"),
    [
        ("Erf", [], {}, torch.erf),
        ("Conv", [KERNEL[:4, :1]], {"group": 4}, lambda x, w: F.conv2d(x, w, groups=4)),
    ],
)
def test_what_cannot_be_written_so_is_computed_in_float32(
    op_type: str, weights: list[np.ndarray], attributes: dict[str, Any], function: Any
) -> None:
    assert op_type in FLOAT32_ONLY or attributes
    graph = single(op_type, weights, attributes)
    given = OnnxEvaluator(graph).run(Plan(()), {"x": IMAGE}, "float64").outputs["out"]
    wanted = function(*map(torch.from_numpy, (IMAGE, *weights))).numpy()
    assert given.dtype == np.float64
    assert np.abs(given - wanted).max() <= Tolerance.FLOAT32 * np.abs(wanted).max()


def test_planning_needs_no_torch() -> None:
    code = "import odedeploy.search, odedeploy.evaluator, odedeploy.delivery"
    assert torchless.run(code).stderr == ""
    assert "No module named 'torch'" in torchless.run("import torch").stderr
