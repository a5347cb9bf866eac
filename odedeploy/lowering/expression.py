"""Arithmetic in float64 that becomes nodes of a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from odedeploy.lowering.writer import Writer


class Expression:
    """A float64 value of a graph, or a constant; operators write nodes and broadcast.

    What is constant is computed at once, and adding 0 or multiplying by 0 or 1 writes nothing.
    """

    def __init__(self, writer: Writer, value: ir.Value | np.ndarray | float) -> None:
        self._writer = writer
        self._value = value if isinstance(value, ir.Value) else np.asarray(value, dtype=np.float64)

    @property
    def value(self) -> ir.Value:
        """The value in the graph; a constant becomes an initializer."""
        if isinstance(self._value, ir.Value):
            return self._value
        return self._writer.constant(self._value, "number")

    def cast(self, dtype: ir.DataType | None) -> ir.Value:
        """The value rounded to ``dtype``."""
        if dtype is None or dtype == ir.DataType.DOUBLE:
            return self.value
        return self._writer.node("Cast", [self.value], "rounded", attributes={"to": int(dtype)})

    def __add__(self, other: Expression | float) -> Expression:
        if self._is(0.0):
            return self._lifted(other)
        return self if self._lifted(other)._is(0.0) else self._node("Add", self, other)

    def __sub__(self, other: Expression | float) -> Expression:
        return self if self._lifted(other)._is(0.0) else self._node("Sub", self, other)

    def __mul__(self, other: Expression | float) -> Expression:
        for one, rest in ((self, self._lifted(other)), (self._lifted(other), self)):
            if one._is(0.0) or rest._is(1.0):
                return one
        return self._node("Mul", self, other)

    def __truediv__(self, other: Expression | float) -> Expression:
        if self._is(0.0) or self._lifted(other)._is(1.0):
            return self
        return self._node("Div", self, other)

    def __radd__(self, other: float) -> Expression:
        return self + other

    def __rsub__(self, other: float) -> Expression:
        return self._lifted(other) - self

    def __rmul__(self, other: float) -> Expression:
        return self * other

    def __rtruediv__(self, other: float) -> Expression:
        return self._lifted(other) / self

    def _is(self, number: float) -> bool:
        """Whether this is the 0-d constant ``number``; one of more axes may widen a result."""
        array = self._value
        return not isinstance(array, ir.Value) and array.ndim == 0 and float(array) == number

    def _lifted(self, other: Expression | float) -> Expression:
        return other if isinstance(other, Expression) else Expression(self._writer, other)

    def _node(self, op_type: str, a: Expression, b: Expression | float) -> Expression:
        left, right = a._value, self._lifted(b)._value
        if not isinstance(left, ir.Value) and not isinstance(right, ir.Value):
            return Expression(self._writer, _NUMPY[op_type](left, right))
        inputs = [a.value, self._lifted(b).value]
        return Expression(self._writer, self._writer.node(op_type, inputs, op_type.lower()))


_NUMPY = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
