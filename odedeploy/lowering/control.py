"""Step-size control in a graph: time and step in float64, norms in the dtype of the state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir

from odedeploy.lowering.expression import Expression
from odedeploy.lowering.surgery import States
from odedeploy.lowering.writer import Writer

SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
"""As in torchdiffeq."""

ORDER = 5
"""The exponent of the control is 1 / ORDER, as torchdiffeq has it for dopri5."""

Evaluate = Callable[[ir.Value, States], States]


class Clock:
    """Time from ``start`` to ``end``; steps are positive and go in that direction."""

    def __init__(self, writer: Writer, start: float, end: float, dtype: ir.DataType) -> None:
        self.writer, self.start, self.end, self.dtype = writer, start, end, dtype
        self.direction = 1.0 if end > start else -1.0
        largest = max(abs(start), abs(end))
        self.least = float(np.finfo(dtype.numpy()).eps) * largest
        self._factors: dict[tuple[ir.Value, ir.DataType, float], ir.Value] = {}

    def number(self, value: float) -> ir.Value:
        return self.writer.constant(np.array(value, dtype=np.float64), "number")

    def real(self, value: ir.Value) -> Expression:
        return Expression(self.writer, value)

    def node(self, op_type: str, *inputs: ir.Value) -> ir.Value:
        return self.writer.node(op_type, inputs, op_type.lower())

    def cast(
        self, value: ir.Value, to: ir.DataType, given: ir.DataType = ir.DataType.DOUBLE
    ) -> ir.Value:
        """``value``, which is of dtype ``given``, in ``to``."""
        if to == given:
            return value
        return self.writer.node("Cast", [value], "cast", attributes={"to": int(to)})

    def rounded(self, time: ir.Value) -> ir.Value:
        """A time as the vector field takes it."""
        made = self.cast(time, self.dtype)
        if made is not time:
            made.type, made.shape = ir.TensorType(self.dtype), ir.Shape([])
        return made

    def after(self, time: ir.Value, step: ir.Value, share: float) -> ir.Value:
        """The time ``share`` of a step later."""
        return (self.real(time) + self.real(step) * (self.direction * share)).value

    def step(self, time: ir.Value, proposed: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The step to take, and whether it is the last: it ends at the end."""
        left = ((self.end - self.real(time)) * self.direction).value
        last = self.node("GreaterOrEqual", proposed, left)
        return self.node("Where", last, left, proposed), last

    def moved(
        self, time: ir.Value, step: ir.Value, accepted: ir.Value, last: ir.Value
    ) -> ir.Value:
        """The time after an attempt."""
        later = self.node("Where", last, self.number(self.end), self.after(time, step, 1.0))
        return self.node("Where", accepted, later, time)

    def following(self, step: ir.Value, ratio: ir.Value) -> ir.Value:
        """The step to try next; a ratio that is no number shrinks it."""
        power = self.node("Pow", ratio, self.number(-1.0 / ORDER))
        small = self.node("Less", ratio, self.number(1.0))
        least = self.node("Where", small, self.number(1.0), self.number(SHRINK))
        wanted = (self.real(power) * SAFETY).value
        bounded = self.node("Min", self.node("Max", wanted, least), self.number(GROW))
        broken = self.node("IsNaN", ratio)
        factor = self.node("Where", broken, self.number(SHRINK), bounded)
        return self.node("Mul", step, factor)

    def goes_on(
        self, step: ir.Value, ended: ir.Value, spent: ir.Value, cost: ir.Value, most: ir.Value
    ) -> ir.Value:
        """Whether another step is wanted, possible and affordable; one of NaN is not possible."""
        possible = self.node("Greater", step, self.number(self.least))
        affordable = self.node("LessOrEqual", self.node("Add", spent, cost), most)
        return self.node("And", self.node("Not", ended), self.node("And", possible, affordable))

    def times(self, time: ir.Value, step: ir.Value, shares: Sequence[float]) -> list[ir.Value]:
        """The times ``shares`` of a step later, as the vector field takes them."""
        signed = Expression(self.writer, self.direction * np.array(shares))
        moved = self.real(time) + self.real(step) * signed
        parts = self._split(self.cast(moved.value, self.dtype), len(shares), "time", self.dtype)
        scalar = self.writer.integers([])
        taken = [self.writer.node("Reshape", [part, scalar], "at") for part in parts]
        for value in taken:
            value.type, value.shape = ir.TensorType(self.dtype), ir.Shape([])
        return taken

    def prepare(self, step: ir.Value, coefficients: Iterable[float], dtype: ir.DataType) -> None:
        """Write the products of many coefficients with the signed step at once, for ``factors``."""
        every = sorted({abs(c) for c in coefficients if c})
        products = self.real(step) * Expression(self.writer, self.direction * np.array(every))
        parts = self._split(self.cast(products.value, dtype), len(every), "factor", dtype)
        self._factors |= {(step, dtype, c): v for c, v in zip(every, parts, strict=True)}

    def _split(
        self, vector: ir.Value, count: int, name: str, dtype: ir.DataType
    ) -> Sequence[ir.Value]:
        """The elements of a vector, each of shape (1,)."""
        if count == 1:
            return [vector]
        node = ir.node(
            "Split", [vector], {"axis": 0, "num_outputs": count}, num_outputs=count,
            name=self.writer.fresh(f"{name}/Split"),
        )  # fmt: skip
        for output in node.outputs:
            output.name = self.writer.fresh(name)
            output.type, output.shape = ir.TensorType(dtype), ir.Shape([1])
        self.writer.nodes.append(node)
        return node.outputs

    def factors(self, step: ir.Value, dtype: ir.DataType) -> Callable[[float], ir.Value]:
        """From a coefficient to its product with the signed step, written once each."""

        def factor(coefficient: float) -> ir.Value:
            key = step, dtype, coefficient
            if key not in self._factors:
                product = (self.real(step) * (self.direction * coefficient)).value
                self._factors[key] = self.cast(product, dtype)
            return self._factors[key]

        return factor

    def allowed(
        self, states: Sequence[ir.Value], rtol: ir.Value, atol: ir.Value, dtype: ir.DataType
    ) -> ir.Value:
        """atol + rtol · max |x|, elementwise."""
        sizes = [self.node("Abs", x) for x in states]
        size = sizes[0] if len(sizes) == 1 else self.node("Max", *sizes)
        rtol, atol = (self.cast(v, dtype, v.dtype or dtype) for v in (rtol, atol))
        return self.node("Add", self.node("Mul", size, rtol), atol)

    def norm(self, x: ir.Value, scale: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Root mean square of ``x`` / ``scale``, 0-d float64."""
        ratio = self.node("Div", x, scale)
        square = self.node("Mul", ratio, ratio)
        mean = self.writer.node("ReduceMean", [square], "mean", attributes={"keepdims": 0})
        return self.cast(self.node("Sqrt", mean), ir.DataType.DOUBLE, dtype)

    def largest(self, norms: Sequence[ir.Value]) -> ir.Value:
        """The largest of ``norms``; NaN when any is."""
        return norms[0] if len(norms) == 1 else self.node("Max", *norms)

    def shares(
        self, times: Sequence[float], time: ir.Value, step: ir.Value, dtype: ir.DataType
    ) -> ir.Value:
        """Where ``times`` lie in a step, in units of it, shape (len(times),)."""
        return self.cast(self._shares(times, time, step), dtype)

    def _shares(self, times: Sequence[float], time: ir.Value, step: ir.Value) -> ir.Value:
        wanted = Expression(self.writer, np.array(times))
        return ((wanted - self.real(time)) / (self.real(step) * self.direction)).value

    def within(
        self, times: Sequence[float], time: ir.Value, step: ir.Value, accepted: ir.Value
    ) -> ir.Value:
        """Which of ``times`` an accepted step passes."""
        share = self._shares(times, time, step)
        begun = self.node("Greater", share, self.number(0.0))
        reached = self.node("LessOrEqual", share, self.number(1.0))
        return self.node("And", self.node("And", begun, reached), accepted)

    def interpolated(
        self, share: ir.Value, x0: ir.Value, x1: ir.Value, k0: ir.Value, k1: ir.Value,
        middle: ir.Value, step: ir.Value, dtype: ir.DataType,
    ) -> ir.Value:
        """The polynomial of degree 4 through both ends, their slopes and the middle."""
        signed = self.factors(step, dtype)(1.0)

        def total(*terms: tuple[float, ir.Value]) -> ir.Value:
            parts = [
                self.node("Mul", value, self.writer.scalar(weight, dtype))
                for weight, value in terms
            ]
            return self.node("Sum", *parts)

        f0, f1 = self.node("Mul", k0, signed), self.node("Mul", k1, signed)
        a = total((2, f1), (-2, f0), (-8, x0), (-8, x1), (16, middle))
        b = total((5, f0), (-3, f1), (18, x0), (14, x1), (-32, middle))
        c = total((1, f1), (-4, f0), (-11, x0), (-5, x1), (16, middle))
        value = self.node("Add", self.node("Mul", a, share), b)
        for each in (c, f0, x0):
            value = self.node("Add", self.node("Mul", value, share), each)
        return value


def first_step(
    clock: Clock,
    evaluate: Evaluate,
    time: ir.Value,
    states: States,
    dtypes: Sequence[ir.DataType],
    tolerances: tuple[ir.Value, ir.Value],
    order: int,
) -> tuple[States, ir.Value]:
    """The slope at ``time`` and the step to try first, by two evaluations.

    Hairer, Nørsett, Wanner 1993, Solving ODEs I, section II.4, as torchdiffeq has it.
    """
    node, number, real = clock.node, clock.number, clock.real
    first = evaluate(time, states)
    scales = [clock.allowed([x], *tolerances, d) for x, d in zip(states, dtypes, strict=True)]

    def norm(values: Sequence[ir.Value]) -> ir.Value:
        each = zip(values, scales, dtypes, strict=True)
        return clock.largest([clock.norm(*one) for one in each])

    size, speed = norm(states), norm(first)
    tiny = node("Or", *(node("Less", v, number(1e-5)) for v in (size, speed)))
    trial = node("Where", tiny, number(1e-6), (real(size) / real(speed) * 0.01).value)
    moved = tuple(
        node("Add", x, node("Mul", k, clock.factors(trial, d)(1.0)))
        for x, k, d in zip(states, first, dtypes, strict=True)
    )
    for x, y in zip(states, moved, strict=True):
        y.type, y.shape = x.type, x.shape
    second = evaluate(clock.after(time, trial, 1.0), moved)
    turned = [node("Sub", b, a) for a, b in zip(first, second, strict=True)]
    bend = (real(norm(turned)) / real(trial)).value
    still = node("And", *(node("LessOrEqual", v, number(1e-15)) for v in (speed, bend)))
    slow = node("Max", number(1e-6), (real(trial) * 1e-3).value)
    quick = node("Pow", (0.01 / real(node("Max", speed, bend))).value, number(1.0 / (order + 1)))
    wanted = node("Where", still, slow, quick)
    return first, node("Min", (real(trial) * 100.0).value, wanted)
