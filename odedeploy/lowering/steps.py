"""Where the steps of a solve are when their number is known at run time only, as graph values.

Times are computed in float64 and rounded once, as those of a plan are: t = a·(1 − s) + b·s with
s = (k + c)/n within an interval [a, b] of n steps, so that both ends are met exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from odedeploy.lowering.expression import Expression
from odedeploy.lowering.writer import Writer
from odedeploy.tableau import Adams, adams_weights

INT64, DOUBLE = ir.DataType.INT64, ir.DataType.DOUBLE

_FAR = 1e20
"""Distance of a slope that does not exist yet; its Adams weight vanishes in float64."""

_END = 2**62


@dataclass(frozen=True)
class Steps:
    """All steps of a solve.

    ``count`` is their number, 0-d int64. Of each step, as float64 of shape (count,) or 0-d where
    all are alike: ``start`` and ``end`` of its interval between two output times, ``number`` of
    steps in that interval, and ``index`` within it, always of shape (count,). ``last`` are the
    steps that reach an output time, int64 (intervals,).
    """

    writer: Writer
    count: ir.Value
    start: Expression
    end: Expression
    number: Expression
    index: Expression
    last: ir.Value | None

    @property
    def size(self) -> Expression:
        """Signed step sizes, 0-d or (count,)."""
        return (self.end - self.start) / self.number

    def times(self, nodes: Sequence[float]) -> Expression:
        """Times at ``nodes``, in units of a step, shape (len(nodes), count)."""
        column = np.array(nodes)[:, None]
        share = (Expression(self.writer, column) + self.index) / self.number
        return self.start * (1 - share) + self.end * share


def lay_out(
    writer: Writer, times: Sequence[float], counts: Sequence[int], total: int, steps: ir.Value
) -> Steps:
    """The steps over the output ``times`` when ``steps`` (0-d int64) are asked for in all.

    Every interval gets its share of them, in the proportion of ``counts`` to ``total``, rounded
    and at least one; ``steps`` = ``total`` gives exactly ``counts``.
    """
    one = writer.constant(np.array(1), "one")
    zero = writer.constant(np.array(0), "zero")
    if [total] == list(counts):
        count = writer.node("Max", [steps, one], "count")
        index = _double(writer, writer.node("Range", [zero, count, one], "index"))
        start, end = (Expression(writer, t) for t in times)
        return Steps(writer, count, start, end, _double(writer, count), index, None)
    asked = writer.node("Mul", [writer.constant(2 * np.array(counts), "shares"), steps], "asked")
    halves = writer.node("Add", [asked, writer.constant(np.array(total), "half")], "halves")
    shares = writer.node("Div", [halves, writer.constant(np.array(2 * total), "all")], "share")
    numbers = writer.node("Max", [shares, one], "numbers")
    ends = writer.node("CumSum", [numbers, zero], "ends")
    count = writer.node("ReduceSum", [numbers], "count", attributes={"keepdims": 0})
    every = writer.node("Range", [zero, count, one], "every")
    column = writer.node("Unsqueeze", [every, writer.integers([1])], "column")
    behind = writer.node("GreaterOrEqual", [column, ends], "behind")
    ones = writer.node("Cast", [behind], "passed", attributes={"to": int(INT64)})
    interval = writer.node(
        "ReduceSum", [ones, writer.integers([1])], "interval", attributes={"keepdims": 0}
    )

    def of(values: ir.Value) -> ir.Value:
        return writer.node("Gather", [values, interval], "of_step")

    first = writer.node("Sub", [ends, numbers], "first")
    return Steps(
        writer,
        count,
        Expression(writer, of(writer.constant(np.array(times[:-1], dtype=np.float64), "starts"))),
        Expression(writer, of(writer.constant(np.array(times[1:], dtype=np.float64), "stops"))),
        _double(writer, of(numbers)),
        _double(writer, writer.node("Sub", [every, of(first)], "index")),
        writer.node("Sub", [ends, one], "last"),
    )


def adams(steps: Steps, method: Adams) -> tuple[Expression, list[Expression]]:
    """Times of the evaluations and the weights of slopes, newest first, one row an evaluation.

    A step is one evaluation; the step of a midpoint start is two, the first of which goes half the
    step and the second takes that back. Its middle slope stays among the slopes with weight zero,
    which takes one column more than the history has.
    """
    writer, size = steps.writer, steps.size
    starts = Expression(writer, _row(writer, steps.times([0.0]).value))
    middle = method.start == "midpoint"
    if steps.last is None:
        weights = _constant_rows(steps, method)
    else:
        weights = [weight * size for weight in _weights(steps, method, starts)]
    if not middle:
        return starts, weights
    head = _head(writer, starts)
    half = (_head(writer, size) if steps.last is not None else size) * 0.5
    times = [head.value, (head + half).value, _rest(writer, starts)]
    if steps.last is not None:
        weights = _with_middle(steps, weights, half)
    return Expression(writer, _joined(writer, times)), weights


def _constant_rows(steps: Steps, method: Adams) -> list[Expression]:
    """Weights on equal steps: a few rows at the start, the last of which holds from there on."""
    writer, rows = steps.writer, start_rows(method)
    zero, one = writer.constant(np.array(0), "zero"), writer.constant(np.array(1), "one")
    extra = writer.constant(np.array(int(method.start == "midpoint")), "extra")
    count = writer.node("Add", [steps.count, extra], "evaluations")
    every = writer.node("Range", [zero, count, one], "every")
    last = writer.constant(np.array(len(rows) - 1), "last_row")
    row = writer.node("Min", [every, last], "row")
    columns = []
    for column in np.array(rows).T:
        table = writer.constant(np.ascontiguousarray(column), "weights")
        weight = Expression(writer, writer.node("Gather", [table, row], "weight"))
        columns.append(weight * steps.size)
    return columns


def start_rows(method: Adams) -> list[list[float]]:
    """The weights of the first evaluations on equal steps, in units of the step."""
    middle = method.start == "midpoint"
    width = method.history + int(middle)
    rows = [[0.5], [1.0, -0.5]] if middle else []
    for i in range(int(middle), method.history + int(middle)):
        newest = range(min(i + 1, method.history))
        weights = adams_weights([-float(m) for m in newest])
        row = [0.0] * width
        for m, weight in zip(newest, weights, strict=True):
            row[m + 1 if middle and m == i else m] = weight
        rows.append(row)
    return [row + [0.0] * (width - len(row)) for row in rows]


def _weights(steps: Steps, method: Adams, starts: Expression) -> list[Expression]:
    """Weights by ``adams_weights`` on any grid; slopes from before the start are far away."""
    writer, history = steps.writer, method.history
    far = np.array([-(_FAR ** (m + 1)) for m in range(history - 1)])[::-1]
    known = writer.node(
        "Concat", [writer.constant(far.copy(), "far"), starts.value], "known",
        attributes={"axis": 0},
    )  # fmt: skip
    nodes = [Expression(writer, 0.0)]
    for m in range(1, history):
        earlier = Expression(writer, _slice(writer, known, history - 1 - m, -m))
        nodes.append((earlier - starts) / steps.size)
    return adams_weights(nodes)  # type: ignore[type-var]


def _with_middle(steps: Steps, weights: list[Expression], half: Expression) -> list[Expression]:
    """Weights of steps as weights of evaluations, after the two of the midpoint start."""
    writer = steps.writer
    zero, one = writer.constant(np.array(0), "zero"), writer.constant(np.array(1), "one")
    every = writer.node("Range", [zero, steps.count, one], "every")

    def at(step: int) -> Expression:
        index = writer.constant(np.array(step), "step")
        return _double(writer, writer.node("Equal", [every, index], "at"))

    columns = [weights[0]]
    for m in range(1, len(weights) + 1):
        moved = weights[m - 1] * at(m - 1) if m > 1 else Expression(writer, 0.0)
        kept = weights[m] * (1 - at(m)) if m < len(weights) else Expression(writer, 0.0)
        columns.append(kept + moved)
    nothing = Expression(writer, np.zeros(1))
    head = [[half, half * 2], [nothing, half * -1.0], *[[nothing, nothing]] * (len(columns) - 2)]
    return [
        Expression(writer, _joined(writer, [a.value, b.value, _rest(writer, column)]))
        for (a, b), column in zip(head, columns, strict=True)
    ]


def _double(writer: Writer, value: ir.Value) -> Expression:
    cast = writer.node("Cast", [value], "real", attributes={"to": int(DOUBLE)})
    return Expression(writer, cast)


def _row(writer: Writer, table: ir.Value) -> ir.Value:
    return writer.node("Squeeze", [table, writer.integers([0])], "row")


def _head(writer: Writer, vector: Expression) -> Expression:
    return Expression(writer, _slice(writer, vector.value, 0, 1))


def _rest(writer: Writer, vector: Expression) -> ir.Value:
    return _slice(writer, vector.value, 1, _END)


def _slice(writer: Writer, vector: ir.Value, start: int, end: int) -> ir.Value:
    bounds = [writer.integers([start]), writer.integers([end])]
    return writer.node("Slice", [vector, *bounds], "part")


def _joined(writer: Writer, parts: Sequence[ir.Value]) -> ir.Value:
    return writer.node("Concat", parts, "joined", attributes={"axis": 0})
