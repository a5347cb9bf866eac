from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import timefields
from odegraphs import GRAPHS, MARKER, Builder, convolution, linear, run
from onnx_ir.passes.common.shape_inference import infer_shapes
from timefields import FIELDS

from odedeploy.grid import Grid
from odedeploy.lowering import lower
from odedeploy.passes import (
    PASSES,
    clean,
    constants,
    dead,
    fold_time,
    names,
    noop,
    offsets,
    shapes,
    spread,
    strip,
    subexpressions,
    trajectory,
)
from odedeploy.passes.uniform import rows
from odedeploy.program import Plan, solve_plan
from odedeploy.solvers import SOLVERS
from odedeploy.tolerance import Tolerance

F32 = np.dtype(np.float32)
X = {"x": np.random.default_rng(2).standard_normal((4, 3)).astype(F32)}
Build = Callable[[Builder, ir.Value], Sequence[ir.Value]]


def model_of(build: Build, shape: Sequence[int | str] = ("batch", 3)) -> ir.Model:
    """x (batch, 3) → what ``build`` returns, as outputs out0, out1, …"""
    m = Builder(F32)
    x = m.value("x", shape)
    outputs = build(m, x)
    for i, out in enumerate(outputs):
        out.name = f"out{i}"
        out.type = out.type or ir.TensorType(ir.DataType.FLOAT)
    model = m.model([x], outputs, [])
    known = {v.name: v.shape for node in model.graph for v in node.outputs if v.shape is not None}
    infer_shapes(model, strict_mode=False)
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = known.get(value.name)
    return model


def plan_of(solver: str = "rk4", steps: int = 4, end: float = 1.0) -> Plan:
    grid = Grid.uniform(0.0, end, steps)
    return Plan((solve_plan("solve0", SOLVERS[solver], grid),))


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def apply(
    each: ModuleType, model: ir.Model, inputs: dict[str, Any] = X, tolerance: float = 0.0
) -> Counter[str]:
    """Run one pass; the model must stay valid, keep its signature and its values."""
    names = [v.name for v in model.graph.inputs], [v.name for v in model.graph.outputs]
    before, proto = run(model, inputs), ir.to_proto(model).SerializeToString(deterministic=True)
    modified = each.run(model)
    after = run(model, inputs)
    assert modified or ir.to_proto(model).SerializeToString(deterministic=True) == proto
    assert names == ([v.name for v in model.graph.inputs], [v.name for v in model.graph.outputs])
    for a, b in zip(before, after, strict=True):
        assert a.shape == b.shape and np.abs(a - b).max() <= tolerance * max(np.abs(a).max(), 1)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    dead.run(model)
    return ops(model)


def stacked(m: Builder, x: ir.Value, times: int = 4) -> ir.Value:
    """A trajectory of the states tanh(x), tanh(tanh(x)), …"""
    axis, parts = m.integers("axis0", [0]), []
    for i in range(times):
        x = m.op("Tanh", x, name=f"state{i}", shape=["batch", 3])
        parts.append(m.op("Unsqueeze", x, axis, name=f"slice{i}"))
    return m.op("Concat", *parts, name="whole", shape=[times, "batch", 3], axis=0)


def pick(op_type: str, *operands: Any, **attributes: Any) -> Build:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        given = [m.integers(f"operand{i}", operand) for i, operand in enumerate(operands)]
        return [m.op(op_type, stacked(m, x), *given, name="picked", **attributes)]

    return build


PICKS: dict[str, tuple[Build, int, int]] = {
    "last": (pick("Gather", -1, axis=0), 4, 0),
    "first": (pick("Gather", 0, axis=0), 1, 0),
    "two": (pick("Gather", [2, 0], axis=0), 3, 2),
    "slice of one": (pick("Slice", [-1], [2**62], [0], [1]), 4, 1),
    "slice without axes": (pick("Slice", [1], [3]), 3, 2),
    "reversed": (pick("Slice", [-1], [-(2**62)], [0], [-2]), 4, 2),
}


@pytest.mark.parametrize("name", PICKS)
def test_states_picked_from_a_trajectory_are_used_directly(name: str) -> None:
    build, states, slices = PICKS[name]
    left = apply(trajectory, model_of(build))
    assert (left["Tanh"], left["Unsqueeze"]) == (states, slices)
    assert not left["Gather"] and not left["Slice"]


def test_split_and_squeeze_of_a_trajectory() -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        node = ir.node("Split", [stacked(m, x)], {"axis": 0, "num_outputs": 4}, num_outputs=4)
        m.nodes.append(node)
        for i, output in enumerate(node.outputs):
            output.name = f"part{i}"
        return [m.op("Squeeze", node.outputs[2], m.integers("first", [0]), name="picked")]

    assert apply(trajectory, model_of(build)) == {"Tanh": 3}


@pytest.mark.parametrize(
    "build",
    [
        pick("Gather", 1, axis=1),
        pick("Slice", [0], [2], [1]),
        pick("Slice", [3], [3]),
        pick("Gather", [[0, 1]], axis=0),
    ],
    ids=["other axis", "other axis of a slice", "nothing", "matrix of indices"],
)
def test_other_picks_are_left_alone(build: Build) -> None:
    model = model_of(build)
    before = ops(model)
    assert not trajectory.run(model) and ops(model) == before


def test_the_same_state_as_two_outputs_and_the_input_as_one() -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        axis, last, first = m.integers("axis0", [0]), m.integers("last", -1), m.integers("i0", 0)
        state = m.op("Tanh", x, name="state", shape=["batch", 3])
        parts = [m.op("Unsqueeze", v, axis, name=f"s{i}") for i, v in enumerate((x, state))]
        whole = m.op("Concat", *parts, name="whole", shape=[2, "batch", 3], axis=0)
        picks = (last, last, first)
        return [m.op("Gather", whole, p, name=f"p{i}", axis=0) for i, p in enumerate(picks)]

    model = model_of(build)
    assert apply(trajectory, model) == {"Tanh": 1, "Identity": 2}
    assert apply(noop, model) == {"Tanh": 1, "Identity": 2}


def test_what_does_nothing_is_dropped() -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        same = ["batch", 3]
        a = m.op("Identity", x, name="a", shape=same)
        b = m.op("Reshape", a, m.integers("target", [-1, 3]), name="b", shape=same)
        c = m.op("Expand", b, m.integers("ones", [1, 1]), name="c", shape=same)
        d = m.op("Cast", c, name="d", shape=same, to=int(ir.DataType.FLOAT))
        return [m.op("Tanh", d, name="e", shape=same)]

    assert apply(noop, model_of(build)) == {"Tanh": 1}


def test_what_does_something_stays() -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        flat = m.op("Reshape", x, m.integers("flat", [-1]), name="a", shape=["all"])
        wide = m.op("Expand", x, m.integers("w", [2, 1, 1]), name="b", shape=[2, "batch", 3])
        double = m.op("Cast", x, name="c", to=int(ir.DataType.DOUBLE))
        double.type, double.shape = ir.TensorType(ir.DataType.DOUBLE), x.shape
        unknown = m.op("Expand", x, m.integers("u", [4, 3]), name="d")
        copy = m.op("Identity", x, name="e", shape=["batch", 3])
        return [flat, wide, double, unknown, copy]

    assert not noop.run(model_of(build))


def test_an_identity_between_two_outputs_stays() -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        y = m.op("Tanh", x, name="y", shape=["batch", 3])
        return [y, m.op("Identity", y, name="z", shape=["batch", 3])]

    assert apply(noop, model_of(build)) == {"Tanh": 1, "Identity": 1}


def test_equal_constants_are_stored_once() -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        array = np.arange(3.0)
        node = ir.node("Constant", [], {"value": ir.tensor(array.astype(F32))}, name="k")
        node.outputs[0].name = "constant"
        m.nodes.append(node)
        large = np.random.default_rng(0).standard_normal((3, 900))
        first = m.op("MatMul", x, m.weight("L1", large), name="m1", shape=["batch", 900])
        second = m.op("MatMul", x, m.weight("L2", large), name="m2", shape=["batch", 900])
        y = m.op("Add", m.op("Add", x, m.weight("w1", array), name="a"), node.outputs[0], name="b")
        return [y, m.op("Add", first, second, name="c")]

    model = model_of(build)
    assert not apply(constants, model)["Constant"]
    assert sorted(v.shape.numpy() for v in model.graph.initializers.values()) == [(3,), (3, 900)]


def test_a_constant_that_is_an_output_keeps_its_name() -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        node = ir.node("Constant", [], {"value": ir.tensor(np.ones(2, F32))}, name="k")
        m.nodes.append(node)
        return [m.op("Tanh", x, name="y"), node.outputs[0]]

    apply(constants, model_of(build))


def test_nothing_is_computed_twice() -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        a, b = (m.op("Tanh", x, name=name, shape=["batch", 3]) for name in "ab")
        return [m.op("Add", a, b, name="c"), a, b]

    assert apply(subexpressions, model_of(build)) == {"Tanh": 1, "Add": 1, "Identity": 1}


def test_the_dead_go() -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        m.op("MatMul", x, m.weight("unused", np.eye(3)), name="nobody")
        return [m.op("Tanh", x, name="y")]

    model = model_of(build)
    model.graph.opset_imports["elsewhere"] = 3
    assert apply(dead, model) == {"Tanh": 1}
    assert not model.graph.initializers and set(model.graph.opset_imports) == {""}


@pytest.mark.parametrize("batch", (0, 1, 4))
def test_a_reshape_whose_result_is_known_gets_a_constant_target(batch: int) -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        size = m.op("Shape", m.op("Tanh", x, name="y", shape=["batch", 6]), name="size")
        row = m.op("Reshape", x, m.integers("t", [0, 2, 3]), name="r", shape=["batch", 2, 3])
        count = m.op("Unsqueeze", m.op("Size", x, name="n"), m.integers("a", [0]), name="count")
        flat = m.op("Reshape", x, count, name="flat", shape=["all"])
        return [m.op("Reshape", row, size, name="back", shape=["batch", 6], allowzero=1), flat]

    model = model_of(build, ["batch", 6])
    inputs = {"x": np.ones((batch, 6), F32)}
    before = run(model, inputs)
    assert shapes.run(model) and dead.run(model)
    assert ops(model) == {"Reshape": 3}
    assert [y.shape for y in run(model, inputs)] == [y.shape for y in before]


def test_a_reshape_to_several_unknown_axes_keeps_its_target() -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        swapped = m.op("Transpose", x, name="s", shape=["n", "batch"], perm=(1, 0))
        return [
            m.op("Reshape", x, m.op("Shape", swapped, name="z"), name="r", shape=["n", "batch"])
        ]

    assert apply(shapes, model_of(build, ["batch", "n"]))["Shape"] == 1


def test_nothing_about_where_it_was_made_is_left() -> None:
    model = linear(np.float32).graph.model
    secret = "/home/somebody/model.py"
    graph, function = model.graph, next(iter(model.functions.values()))
    initializer = next(iter(graph.initializers.values()))
    tensor = ir.to_proto(initializer.const_value)
    tensor.doc_string = secret
    initializer.const_value = ir.from_proto(tensor)
    constant = ir.from_proto(tensor)
    node = ir.node("Constant", [], {"value": constant}, name="k")
    node.attributes["value"] = ir.Attr("value", ir.AttributeType.TENSOR, constant, secret)
    graph.insert_before(graph[0], node)
    holders = [model, graph, function, function.graph, graph.inputs[0], initializer, graph[0]]
    holders += [graph[1].outputs[0], function[0], function[0].outputs[0], function.inputs[0]]
    for holder in holders:
        holder.metadata_props["pkg.torch.onnx.stack_trace"] = secret
        holder.doc_string = secret
    model.producer_name = model.domain = "torch"
    model.producer_version, model.model_version = "2.13", 3
    assert secret.encode() in ir.to_proto(model).SerializeToString()
    assert strip.run(model) and not strip.run(model)
    data = ir.to_proto(model).SerializeToString()
    assert b"somebody" not in data and b"stack_trace" not in data and b"torch" not in data


@pytest.mark.parametrize("batch", (1, 2, 5))
def test_time_beside_a_convolutions_input_becomes_an_offset(batch: int) -> None:
    model = lower(convolution(), plan_of())
    rng = np.random.default_rng(batch)
    inputs = {"x": rng.standard_normal((batch, 3, 5, 5)).astype(F32)}
    for each in (trajectory, shapes):
        each.run(model)
    left = apply(fold_time, model, inputs, Tolerance.FLOAT32)
    evaluations = plan_of().evaluations
    assert left["Conv"] == 2 * evaluations and left[MARKER] == evaluations
    assert not any(takes_state_and_time(node) for node in model.graph)
    subexpressions.run(model)
    times = len(set(plan_of().solves[0].program.times))
    assert ops(model)["Conv"] == evaluations + times and ops(model)["Slice"] == 2


def takes_state_and_time(node: ir.Node) -> bool:
    return node.op_type == "Concat" and node.attributes["axis"].as_int() == 1


CONVOLUTIONS = {
    "plain": {},
    "strided": {"strides": (2, 2)},
    "dilated": {"dilations": (2, 2), "pads": (2, 2, 2, 2)},
    "unequal padding": {"pads": (0, 1, 2, 1)},
    "no padding": {"pads": (0, 0, 0, 0)},
}


@pytest.mark.parametrize("bias", (True, False), ids=("bias", "no bias"))
@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("order", ("yu", "uy", "uyv", "yuz"))
def test_every_convolution_splits_exactly(order: str, kind: str, bias: bool) -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        rng = np.random.default_rng(1)
        image = ["batch", 2, 6, 6]
        target = m.op("Shape", m.op("Tanh", x, name="z", shape=image), name="target")
        row = m.weight("row", rng.standard_normal((1, 2, 1, 1)))
        parts = {
            "y": x,
            "z": m.op("Sin", x, name="other", shape=image),
            "u": m.op("Expand", m.weight("t", 0.7), target, name="u", shape=image),
            "v": m.op("Expand", row, target, name="v", shape=image),
        }
        n = 2 * len(order)
        both = m.op(
            "Concat", *[parts[p] for p in order], name="c", shape=["batch", n, 6, 6], axis=1
        )
        weights = [m.weight("W", rng.standard_normal((4, n, 3, 3)))]
        weights += [m.weight("b", rng.standard_normal(4))] if bias else []
        return [
            m.op("Conv", both, *weights, name="out", **{"pads": (1,) * 4, **CONVOLUTIONS[kind]})
        ]

    model = model_of(build, ["batch", 2, 6, 6])
    inputs = {"x": np.random.default_rng(0).standard_normal((3, 2, 6, 6)).astype(F32)}
    left = apply(fold_time, model, inputs, Tolerance.FLOAT32)
    assert left["Conv"] == 2


@pytest.mark.parametrize("kind", ("Gemm", "Gemm transposed", "Gemm scaled", "MatMul"))
def test_time_beside_a_dense_layers_input_becomes_an_offset(kind: str) -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        rng = np.random.default_rng(1)
        target = m.op(
            "Concat",
            m.op("Shape", x, name="n", end=1),
            m.integers("one", [1]),
            name="target",
            axis=0,
        )
        spread = m.op("Expand", m.weight("t", 0.7), target, name="u", shape=["batch", 1])
        phase = m.op(
            "Mul", spread, m.weight("f", np.arange(1.0, 5.0)), name="p", shape=["batch", 4]
        )
        sine = m.op("Sin", phase, name="s", shape=["batch", 4])
        both = m.op("Concat", x, sine, name="c", shape=["batch", 7], axis=1)
        weight, bias = rng.standard_normal((7, 5)), m.weight("b", rng.standard_normal(5))
        if kind == "MatMul":
            return [m.op("MatMul", both, m.weight("W", weight), name="out", shape=["batch", 5])]
        transposed = kind == "Gemm transposed"
        attributes: dict[str, Any] = {"alpha": 0.5} if kind == "Gemm scaled" else {}
        w = m.weight("W", weight.T if transposed else weight)
        return [
            m.op(
                "Gemm",
                both,
                w,
                bias,
                name="out",
                shape=["batch", 5],
                transB=int(transposed),
                **attributes,
            )
        ]

    model = model_of(build)
    left = apply(fold_time, model, X, Tolerance.FLOAT32)
    assert left[kind.split()[0]] == 2 and left["Expand"] == 1 and not left["Shape"]


def unsplittable(*changes: str) -> Build:
    """A convolution over (y, t) that cannot be split for the reasons named."""

    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        image = ["batch", 2, 6, 6]
        given = m.op("Shape", x, name="target")
        size = {"unknown area": ["batch", 2, "h", "w"], "unknown channels": ["batch", "c", 6, 6]}
        t = m.weight("t", np.ones((4, 1, 1, 1)) if "per sample" in changes else 0.7)
        spread = m.op(
            "Expand", t, given, name="u", shape=next((size[c] for c in changes if c in size), image)
        )
        shape = ["batch", 4, "h", "w"] if "unknown area" in changes else ["batch", 4, 6, 6]
        both = m.op("Concat", x, spread, name="c", shape=shape, axis=1)
        groups = 2 if "grouped" in changes else 1
        w = m.weight("W", np.ones((4, 4 // groups, 3, 3)))
        if "computed weight" in changes:
            w = m.op("Mul", w, m.op("ReduceMax", x, name="max", keepdims=0), name="w2")
        return [m.op("Conv", both, w, name="out", group=groups)]

    return build


@pytest.mark.parametrize(
    "why", ("unknown area", "unknown channels", "per sample", "grouped", "computed weight")
)
def test_what_cannot_be_split_stays(why: str) -> None:
    model = model_of(unsplittable(why), ["batch", 2, 6, 6])
    inputs = {"x": np.random.default_rng(0).standard_normal((4, 2, 6, 6)).astype(F32)}
    left = apply(fold_time, model, inputs)
    assert left["Conv"] == 1 and left["Concat"] == 1


def test_time_spread_over_the_batch_is_not_spread_in_elementwise_operators() -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        ones = m.op(
            "Expand",
            m.weight("one", 1.0),
            m.op("Shape", x, name="n"),
            name="ones",
            shape=["batch", 3],
        )
        time = m.op("Mul", ones, m.weight("t", 0.3), name="time", shape=["batch", 3])
        return [m.op("Add", x, time, name="y", shape=["batch", 3])]

    assert apply(fold_time, model_of(build)) == {"Mul": 1, "Add": 1}


def test_a_row_that_widens_the_result_stays_spread() -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        head = m.op("ReduceSum", x, m.integers("a", [0]), name="head", shape=[1, 3])
        ones = m.op(
            "Expand",
            m.weight("one", 2.0),
            m.op("Shape", x, name="n"),
            name="ones",
            shape=["batch", 3],
        )
        return [m.op("Add", head, ones, name="y", shape=["batch", 3])]

    assert apply(fold_time, model_of(build))["Expand"] == 1


@pytest.mark.parametrize("batch", (1, 3, 7))
@pytest.mark.parametrize("name", GRAPHS)
def test_clean_keeps_the_function_and_is_done_after_one_run(name: str, batch: int) -> None:
    example = GRAPHS[name](np.float32)
    model, inputs = lower(example.graph, plan_of("rk4")), example.inputs(batch)
    before = run(model, inputs)
    assert clean(model) is model
    for a, b in zip(before, run(model, inputs), strict=True):
        assert np.abs(a - b).max() <= Tolerance.FLOAT32 * np.abs(a).max()
    left = ops(model)
    assert left[MARKER] == plan_of("rk4").evaluations
    assert not {"Unsqueeze", "Concat", "Gather", "Identity"} & set(left)
    again = ir.to_proto(model).SerializeToString(deterministic=True)
    assert ir.to_proto(clean(model)).SerializeToString(deterministic=True) == again


def test_clean_takes_the_convolution_apart_and_stores_its_weight_once() -> None:
    model = clean(lower(convolution(), plan_of("rk4", 8)))
    assert not [node for node in model.graph if node.op_type in ("Shape", "Gather", "Unsqueeze")]
    stored = [v.shape.numpy() for v in model.graph.initializers.values()]
    assert stored.count((3, 4, 3, 3)) == 1 and max(map(len, stored)) == 4
    assert [s for s in stored if len(s) == 4] == [(3, 4, 3, 3)]


def test_every_pass_is_in_the_table_and_states_its_contract() -> None:
    for each in PASSES:
        assert each.run.__doc__ and each.__doc__


@pytest.mark.parametrize("name", FIELDS)
def test_every_pass_keeps_the_values_of_every_field(name: str) -> None:
    model = lower(timefields.graph(name), plan_of("rk4", 2))
    given = timefields.inputs(name, 5)
    truth = run(model, given)
    for each in PASSES:
        each.run(model)
        for a, b in zip(truth, run(model, given), strict=True):
            error = np.abs(a - b).max()
            assert error <= Tolerance.FLOAT32 * np.abs(a).max(), each.__name__


MOVING: dict[str, Counter[str]] = {
    "autonomous": Counter({"Gemm": 2, "Tanh": 1}),
    "concatenated": Counter({"Gemm": 2, "Tanh": 1}),
    "embedded": Counter({"Gemm": 2, "Tanh": 1, "Mul": 1, "Add": 1}),
    "shifted": Counter({"Gemm": 2, "Tanh": 1}),
    "concatsquash": Counter({"Gemm": 2, "Tanh": 2, "Mul": 2, "Add": 2}),
    "convolutional": Counter(
        {"Reshape": 2, "InstanceNormalization": 1, "Add": 2, "Relu": 1, "Conv": 1}
    ),
    "signed": Counter(
        {"Reshape": 2, "InstanceNormalization": 1, "Mul": 1, "Add": 2, "Relu": 1, "Conv": 1}
    ),
}
"""What an evaluation has left to compute of the state, by field."""


@pytest.mark.parametrize("name", FIELDS)
def test_an_evaluation_computes_nothing_but_what_depends_on_the_state(name: str) -> None:
    plan = plan_of("euler", 3)
    model = clean(lower(timefields.graph(name), plan))
    constant = rows(model.graph)
    solver = Counter({"Mul": plan.evaluations, "Add": plan.evaluations})
    moving = Counter(n.op_type for n in model.graph if constant.get(n.outputs[0]) is None)
    expected = Counter({op: n * plan.evaluations for op, n in MOVING[name].items()}) + solver
    assert moving == expected


def test_a_weight_scaled_by_a_factor_is_computed_once_for_all_evaluations() -> None:
    model = clean(lower(timefields.graph("convolutional"), plan_of("euler", 6)))
    constant = rows(model.graph)
    moving = [n for n in model.graph if n.op_type == "Conv" and n.outputs[0] not in constant]
    weights = {n.inputs[1] for n in moving}
    assert len(weights) == 1 and len([n for n in model.graph if n.op_type == "Slice"]) == 2


@pytest.mark.parametrize("kind", ("Gemm", "Conv", "no bias", "scalar"))
def test_a_constant_behind_a_linear_operator_is_part_of_its_bias(kind: str) -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        rng = np.random.default_rng(0)
        image = ["batch", 3, 4, 4]
        if kind in ("Conv", "scalar"):
            x4 = m.op("Reshape", x, m.integers("r", [0, 3, 4, 4]), name="x4", shape=image)
            shape = (3, 1, 1) if kind == "Conv" else ()
            w, b = rng.standard_normal((3, 3, 1, 1)), rng.standard_normal(3)
            y = m.op("Conv", x4, m.weight("W", w), m.weight("b", b), name="y", shape=image)
            u = m.weight("u", rng.standard_normal(shape))
            return [m.op("Add", u, y, name="z", shape=image)]
        bias = [] if kind == "no bias" else [m.weight("b", rng.standard_normal(5))]
        w = m.weight("W", rng.standard_normal((48, 5)))
        y = m.op("Gemm", x, w, *bias, name="y", shape=["batch", 5])
        u = m.weight("u", rng.standard_normal((1, 5)))
        return [m.op("Add", y, u, name="z", shape=["batch", 5])]

    model = model_of(build, ["batch", 48])
    x = np.random.default_rng(1).standard_normal((3, 48)).astype(F32)
    apply(offsets, model, {"x": x}, Tolerance.FLOAT32)
    last = model.graph.outputs[0].producer()
    assert last is not None and last.op_type == ("Gemm" if kind in ("Gemm", "no bias") else "Conv")


@pytest.mark.parametrize("why", ("per place", "read twice", "an output", "per sample"))
def test_what_is_no_bias_stays_an_addition(why: str) -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        w = m.weight("W", np.eye(3))
        y = m.op("Gemm", x, w, name="y", shape=["batch", 3])
        u = m.weight("u", np.ones((4, 3) if why == "per sample" else (1, 3)))
        if why == "per place":
            line = ["batch", 1, 3]
            y = m.op("Reshape", x, m.integers("r", [0, 1, 3]), name="line", shape=line)
            y = m.op("Conv", y, m.weight("K", np.ones((1, 1, 1))), name="c", shape=line)
        z = m.op("Add", y, u, name="z")
        more = [m.op("Tanh", y, name="t")] if why == "read twice" else []
        return [z, *more, *([y] if why == "an output" else [])]

    assert apply(offsets, model_of(build))["Add"] == 1


def test_a_constant_per_channel_is_spread_where_its_channels_are_small() -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        outs = []
        for size in (4, 40):
            image = ["batch", 3, size, size]
            y = m.op("Expand", m.op("Reshape", x, m.integers(f"r{size}", [0, 3, 1, 1]),
                                    name=f"x{size}", shape=["batch", 3, 1, 1]),
                     m.integers(f"e{size}", [1, 1, size, size]), name=f"y{size}",
                     shape=image)  # fmt: skip
            u = m.weight(f"u{size}", np.arange(3.0).reshape(3, 1, 1))
            outs.append(m.op("Mul", y, u, name=f"z{size}", shape=image))
        return outs

    assert apply(spread, model_of(build))["Expand"] == 3


def test_names_inside_take_no_room_and_those_outside_stay() -> None:
    def build(m: Builder, x: ir.Value) -> Sequence[ir.Value]:
        a = m.op("Tanh", x, name="a" * 500, shape=["batch", 3])
        b = m.op("Add", a, m.weight("0", np.ones(3)), name="b" * 500, shape=["batch", 3])
        return [m.op("Sin", b, name="y", shape=["batch", 3]), b]

    model = model_of(build)
    apply(names, model)
    assert set(model.graph.initializers) == {"0"}
    assert names.run(model) and not names.run(model)
    assert len(ir.to_proto(model).SerializeToString()) < 500
