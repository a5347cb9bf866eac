"""ODE graphs built by hand. ``GRAPHS`` maps a name to a factory of an ``Example`` in a dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from odedeploy.graph import FIELD_DOMAIN, OPSET, SOLVE_DOMAIN, OdeGraph, Site

Array = np.ndarray
A = np.array([[-0.4, 1.1, 0.2], [-1.0, -0.3, 0.1], [0.3, 0.0, -0.8]])
B = np.array([0.5, -0.25, 1.0])
MARKER = "Tanh"
"""Operator that every field of this file runs exactly once per evaluation."""


@dataclass(frozen=True)
class Example:
    """``initial`` and ``field`` are the NumPy twin of the solve; ``finish`` of what follows it.

    ``finish`` maps the trajectory, a list of states, to the model's outputs.
    """

    graph: OdeGraph
    inputs: Callable[[int], dict[str, Array]]
    initial: Callable[[dict[str, Array]], Any]
    field: Callable[[dict[str, Array]], Callable[[Any, Any], Any]]
    finish: Callable[[list[Any]], list[Array]]


class Builder:
    """Values and nodes of one graph or function."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = ir.DataType.from_numpy(dtype)
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []

    def value(
        self, name: str, shape: Sequence[int | str], dtype: ir.DataType | None = None
    ) -> ir.Value:
        return ir.Value(name=name, type=ir.TensorType(dtype or self.dtype), shape=ir.Shape(shape))

    def weight(self, name: str, array: Any, dtype: ir.DataType | None = None) -> ir.Value:
        value = self.value(name, np.shape(array), dtype)
        cast = np.asarray(array).astype((dtype or self.dtype).numpy())
        value.const_value = ir.tensor(cast, name=name)
        self.initializers.append(value)
        return value

    def integers(self, name: str, array: Any) -> ir.Value:
        return self.weight(name, np.asarray(array), ir.DataType.INT64)

    def op(
        self,
        op_type: str,
        *inputs: ir.Value,
        name: str,
        like: ir.Value | None = None,
        shape: Sequence[int | str] | None = None,
        **attributes: Any,
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes, name=f"node_{name}")
        node.outputs[0].name = name
        if like is not None or shape is not None:
            node.outputs[0].type = like.type if like is not None else ir.TensorType(self.dtype)
            node.outputs[0].shape = like.shape if like is not None else ir.Shape(shape)
        self.nodes.append(node)
        return node.outputs[0]

    def solve(
        self, name: str, states: Sequence[ir.Value], context: Sequence[ir.Value], times: int
    ) -> tuple[ir.Value, ...]:
        node = ir.Node(
            SOLVE_DOMAIN,
            "Solve",
            [*states, *context],
            num_outputs=len(states),
            name=name,
            version=1,
        )
        for i, (out, state) in enumerate(zip(node.outputs, states, strict=True)):
            out.name, out.type = f"{name}_trajectory{i}", state.type
            out.shape = ir.Shape([times, *state.shape])
        self.nodes.append(node)
        return tuple(node.outputs)

    def function(
        self, name: str, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]
    ) -> ir.Function:
        graph = ir.Graph(inputs, outputs, nodes=self.nodes, opset_imports={"": OPSET}, name=name)
        return ir.Function(FIELD_DOMAIN, name, graph=graph, attributes=())

    def model(
        self,
        inputs: Sequence[ir.Value],
        outputs: Sequence[ir.Value],
        functions: Sequence[ir.Function],
    ) -> ir.Model:
        imports = {"": OPSET}
        if functions:
            imports |= {SOLVE_DOMAIN: 1, FIELD_DOMAIN: 1}
        graph = ir.Graph(
            inputs,
            outputs,
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports=imports,
            name="main",
        )
        return ir.Model(graph, ir_version=10, functions=functions)


def _site(times: Sequence[float], states: int = 1, number: int = 0) -> Site:
    return Site(
        f"solve{number}", "field0", tuple(times), states, "dopri5", location="/home/me/x.py:7"
    )


def linear(dtype: Any, times: Sequence[float] = (0.0, 1.0), last: bool = True) -> Example:
    """dy/dt = A y + b t, from y (batch, 3), next to an operator that counts evaluations.

    ``last`` gives the state at the last time, otherwise the trajectory.
    """
    dtype = np.dtype(dtype)
    a, b = A.astype(dtype), B.astype(dtype)
    f = Builder(dtype)
    t, y = f.value("t", []), f.value("y", ["batch", 3])
    wt, drift = f.value("A", [3, 3]), f.value("b", [3])
    zero = f.value("zero", [])
    rate = f.op("MatMul", y, wt, name="rate", like=y)
    push = f.op("Mul", drift, t, name="push", like=drift)
    silent = f.op("Mul", f.op(MARKER, rate, name="counted", like=y), zero, name="silent", like=y)
    slope = f.op("Add", f.op("Add", rate, push, name="sum", like=y), silent, name="slope", like=y)
    m = Builder(dtype)
    x = m.value("x", ["batch", 3])
    context = [m.weight("field.A", a.T), m.weight("field.b", b), m.weight("zero", 0.0)]
    (whole,) = m.solve("solve0", [x], context, len(times))
    out = whole
    if last:
        out = m.op(
            "Gather", whole, m.integers("last", -1), name="final", shape=["batch", 3], axis=0
        )
    out.name = "out"
    model = m.model([x], [out], [f.function("field0", [t, y, wt, drift, zero], [slope])])
    return Example(
        OdeGraph(model, (_site(times),)),
        lambda n: {"x": np.random.default_rng(n).standard_normal((n, 3)).astype(dtype)},
        lambda inputs: inputs["x"],
        lambda inputs: lambda t, y: y @ a.T + b * t,
        lambda ys: [ys[-1] if last else np.stack(ys)],
    )


def pair(dtype: Any, times: Sequence[float] = (0.0, 1.0)) -> Example:
    """A state (batch, 3) and one (batch,): dp/dt = cos(t) tanh(p) − p, de/dt = Σ (dp/dt)²."""
    dtype = np.dtype(dtype)
    f = Builder(dtype)
    t, p, e = f.value("t", []), f.value("p", ["batch", 3]), f.value("e", ["batch"])
    axis = f.value("axis", [1], ir.DataType.INT64)
    soft = f.op(MARKER, p, name="soft", like=p)
    turn = f.op("Cos", t, name="turn", like=t)
    slope = f.op("Sub", f.op("Mul", soft, turn, name="turned", like=p), p, name="dp", like=p)
    power = f.op(
        "ReduceSum",
        f.op("Mul", slope, slope, name="square", like=p),
        axis,
        name="de",
        like=e,
        keepdims=0,
    )
    m = Builder(dtype)
    x, z = m.value("x", ["batch", 3]), m.value("z", ["batch"])
    ps, es = m.solve("solve0", [x, z], [m.integers("axis1", [1])], len(times))
    last = m.integers("last", -1)
    outs = [
        m.op("Gather", ps, last, name="position", shape=["batch", 3], axis=0),
        m.op("Gather", es, last, name="energy", shape=["batch"], axis=0),
    ]
    model = m.model([x, z], outs, [f.function("field0", [t, p, e, axis], [slope, power])])

    def field(inputs: dict[str, Array]) -> Callable[[Any, Any], Any]:
        def slopes(t: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
            dp = np.tanh(state[0]) * np.cos(t) - state[0]
            return dp, (dp**2).sum(1)

        return slopes

    def inputs(n: int) -> dict[str, Array]:
        rng = np.random.default_rng(n)
        return {"x": rng.standard_normal((n, 3)).astype(dtype), "z": np.zeros(n, dtype)}

    return Example(
        OdeGraph(model, (_site(times, 2),)),
        inputs,
        lambda inputs: (inputs["x"], inputs["z"]),
        field,
        lambda ys: [ys[-1][0], ys[-1][1]],
    )


def conditioned(dtype: Any, times: Sequence[float] = (0.0, 1.0)) -> Example:
    """dy/dt = tanh(y W) + c·t with c = x V computed in the main graph, once."""
    dtype = np.dtype(dtype)
    w, v = A.astype(dtype), (0.3 * A.T).astype(dtype)
    f = Builder(dtype)
    t, y = f.value("t", []), f.value("y", ["batch", 3])
    wt, c = f.value("W", [3, 3]), f.value("c", ["batch", 3])
    soft = f.op(MARKER, f.op("MatMul", y, wt, name="rate", like=y), name="soft", like=y)
    slope = f.op("Add", soft, f.op("Mul", c, t, name="ct", like=c), name="slope", like=y)
    m = Builder(dtype)
    x = m.value("x", ["batch", 3])
    c0 = m.op("MatMul", x, m.weight("V", v), name="embedding", shape=["batch", 3])
    (whole,) = m.solve("solve0", [x], [m.weight("W0", w), c0], len(times))
    out = m.op("Gather", whole, m.integers("last", -1), name="out", shape=["batch", 3], axis=0)
    model = m.model([x], [out], [f.function("field0", [t, y, wt, c], [slope])])
    return Example(
        OdeGraph(model, (_site(times),)),
        lambda n: {"x": np.random.default_rng(n).standard_normal((n, 3)).astype(dtype)},
        lambda inputs: inputs["x"],
        lambda inputs: lambda t, y: np.tanh(y @ w) + inputs["x"] @ v * t,
        lambda ys: [ys[-1]],
    )


def stem_and_head(dtype: Any, times: Sequence[float] = (0.0, 1.0)) -> Example:
    """y0 = x S (batch, 2) → (batch, 3), dy/dt = tanh(y W) − y t, logits = y(t1) H (batch, 2)."""
    dtype = np.dtype(dtype)
    s, w, h = (
        B.astype(dtype)[None] * np.array([[1], [-2]], dtype),
        A.astype(dtype),
        A[:, :2].astype(dtype),
    )
    f = Builder(dtype)
    t, y, wt = f.value("t", []), f.value("y", ["batch", 3]), f.value("W", [3, 3])
    soft = f.op(MARKER, f.op("MatMul", y, wt, name="rate", like=y), name="soft", like=y)
    slope = f.op("Sub", soft, f.op("Mul", y, t, name="yt", like=y), name="slope", like=y)
    m = Builder(dtype)
    x = m.value("x", ["batch", 2])
    y0 = m.op("MatMul", x, m.weight("stem.S", s), name="stem", shape=["batch", 3])
    (whole,) = m.solve("solve0", [y0], [m.weight("field.W", w)], len(times))
    end = m.op("Gather", whole, m.integers("last", -1), name="end", shape=["batch", 3], axis=0)
    out = m.op("MatMul", end, m.weight("head.H", h), name="logits", shape=["batch", 2])
    model = m.model([x], [out], [f.function("field0", [t, y, wt], [slope])])
    return Example(
        OdeGraph(model, (_site(times),)),
        lambda n: {"x": np.random.default_rng(n).standard_normal((n, 2)).astype(dtype)},
        lambda inputs: inputs["x"] @ s,
        lambda inputs: lambda t, y: np.tanh(y @ w) - y * t,
        lambda ys: [ys[-1] @ h],
    )


def logistic(dtype: Any, times: Sequence[float] = (0.0, 1.0)) -> Example:
    """dy/dt = cos(2t) y (1 − y/3), nonlinear, elementwise on y (batch, 1)."""
    dtype = np.dtype(dtype)
    f, m = Builder(dtype), Builder(dtype)
    t, y = f.value("t", []), f.value("y", ["batch", 1])
    one, third = f.value("one", []), f.value("third", [])
    room = f.op("Sub", one, f.op("Mul", y, third, name="share", like=y), name="room", like=y)
    turn = f.op("Cos", f.op("Add", t, t, name="twice", like=t), name="turn", like=t)
    slope = f.op("Mul", f.op("Mul", y, room, name="growth", like=y), turn, name="slope", like=y)
    x = m.value("x", ["batch", 1])
    context = [m.weight("one1", 1.0), m.weight("third1", 1 / 3)]
    (whole,) = m.solve("solve0", [x], context, len(times))
    out = m.op("Gather", whole, m.integers("last", -1), name="out", shape=["batch", 1], axis=0)
    model = m.model([x], [out], [f.function("field0", [t, y, one, third], [slope])])
    return Example(
        OdeGraph(model, (_site(times),)),
        lambda n: {"x": np.linspace(0.3, 3.5, n, dtype=dtype)[:, None]},
        lambda inputs: inputs["x"],
        lambda inputs: lambda t, y: y * (1 - y * dtype.type(1 / 3)) * np.cos(2 * t),
        lambda ys: [ys[-1]],
    )


def convolution(dtype: Any = np.float32, size: int = 5, channels: int = 3) -> OdeGraph:
    """dy/dt = conv(cat(t, tanh(y)); W, b) on images (batch, channels, size, size)."""
    rng = np.random.default_rng(5)
    f, m = Builder(np.dtype(dtype)), Builder(np.dtype(dtype))
    image = ["batch", channels, size, size]
    t, y, target = f.value("t", []), f.value("y", image), f.value("target", [4], ir.DataType.INT64)
    w, b = f.value("W", [channels, channels + 1, 3, 3]), f.value("b", [channels])
    spread = f.op("Expand", t, target, name="spread", shape=["batch", 1, size, size])
    soft = f.op(MARKER, y, name="soft", like=y)
    shape = ["batch", channels + 1, size, size]
    both = f.op("Concat", spread, soft, name="both", shape=shape, axis=1)
    slope = f.op("Conv", both, w, b, name="slope", like=y, kernel_shape=(3, 3), pads=(1, 1, 1, 1))
    x = m.value("x", image)
    batch = m.op("Shape", x, name="batch_size", start=0, end=1)
    ends = m.op("Concat", batch, m.integers("rest", [1, size, size]), name="target0", axis=0)
    weights = [
        m.weight("conv.weight", 0.3 * rng.standard_normal((channels, channels + 1, 3, 3))),
        m.weight("conv.bias", rng.standard_normal(channels)),
    ]
    (whole,) = m.solve("solve0", [x], [ends, *weights], 2)
    last = m.integers("last", -1)
    out = m.op("Gather", whole, last, name="out", shape=image, axis=0)
    function = f.function("field0", [t, y, target, w, b], [slope])
    return OdeGraph(m.model([x], [out], [function]), (_site((0.0, 1.0)),))


GRAPHS: dict[str, Callable[..., Example]] = {
    factory.__name__: factory for factory in (linear, pair, conditioned, stem_and_head)
}


def run(model: ir.Model, inputs: dict[str, Array]) -> list[Array]:
    """The model's outputs in onnxruntime, on the CPU, with one thread and no rewriting.

    onnxruntime's own optimisations are off, so that what is run is what the model says.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))
