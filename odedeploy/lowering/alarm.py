"""The alarm of a plan: one small matrix product over the slopes that the solves compute anyway."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import onnx_ir as ir

from odedeploy.errors import BadInput
from odedeploy.graph import batch_symbol
from odedeploy.lowering.surgery import States
from odedeploy.lowering.writer import Writer
from odedeploy.program import Alarm

LARGEST = float(np.finfo(np.float32).max)


def write(
    alarm: Alarm,
    initial: Mapping[str, States],
    slopes: Mapping[str, Mapping[int, States]],
    writer: Writer,
) -> None:
    """Append the alarm's nodes and its output (batch,) float32 to the writer's graph.

    ``initial`` and ``slopes`` are by site. Where the alarm is not a number the output is infinite.
    Raises BadInput for a state with an unknown axis beside its batch axis.
    """
    squares = [
        _squares(
            [slopes[residual.site][j][i] for j in residual.slopes],
            initial[residual.site][i], axis, rows, writer,
        )
        for residual in alarm.residuals
        for i, axis, rows in residual.watched
    ]  # fmt: skip
    total = squares[0]
    for square in squares[1:]:
        total = writer.node("Add", [total, square], f"{alarm.output}_total", like=total)
    value = writer.node("Sqrt", [total], f"{alarm.output}_root", like=total)
    limit, infinite = (writer.scalar(x, ir.DataType.FLOAT) for x in (LARGEST, np.inf))
    known = writer.node("LessOrEqual", [value, limit], f"{alarm.output}_known")
    known.type, known.shape = ir.TensorType(ir.DataType.BOOL), total.shape
    output = writer.node("Where", [known, value, infinite], alarm.output, like=total)
    writer.append()
    writer.graph.outputs.append(output)


def _squares(
    slopes: list[ir.Value], state: ir.Value, axis: int, rows: np.ndarray, writer: Writer
) -> ir.Value:
    """Σ_k ‖Σ_j row_kj · slope_j‖² of every input.

    All combinations are one product of (K, m) with the slopes as (m, state), whose result is seen
    as (K · axes before the batch, batch, axes after it).
    """
    dtype, lengths = state.dtype, list(state.shape or ())
    assert dtype is not None
    sizes = [n for n in lengths if isinstance(n, int)]
    before = prod(sizes[:axis])
    if state.shape is None or len(sizes) != len(lengths) - 1 or isinstance(lengths[axis], int):
        raise BadInput(
            f"The state {state.name!r} has the shape {state.shape} and no fixed size of one input, "
            "which an alarm needs; leave out --alarm."
        )
    name = f"{state.name}_residual"
    flat = writer.node("Concat", slopes, f"{name}_slopes", attributes={"axis": 0})
    flat = writer.node("Reshape", [flat, writer.integers([len(slopes), -1])], f"{name}_flat")
    matrix = writer.constant(np.asarray(rows, dtype.numpy()), f"{name}_rows")
    combined = writer.node("MatMul", [matrix, flat], f"{name}_combined")
    if dtype != ir.DataType.FLOAT:
        to = {"to": int(ir.DataType.FLOAT)}
        combined = writer.node("Cast", [combined], f"{name}_float", attributes=to)
    split = writer.integers([len(rows) * before, -1, prod(sizes[axis:])])
    apart = writer.node("Reshape", [combined, split], f"{name}_apart")
    square = writer.node(
        "ReduceSumSquare", [apart, writer.integers([0, 2])], f"{name}_square",
        attributes={"keepdims": 0},
    )  # fmt: skip
    square.type = ir.TensorType(ir.DataType.FLOAT)
    square.shape = ir.Shape([batch_symbol(writer.graph)])
    return square
