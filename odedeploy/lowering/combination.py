"""Linear combinations of slopes, in as few element-wise nodes as they take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import onnx_ir as ir

from odedeploy.lowering.writer import Writer


class Signed(NamedTuple):
    """A value that is added, or subtracted when it is not ``positive``."""

    positive: bool
    value: ir.Value


class Combinations:
    """Writes x + Σ c·k for one state tensor.

    Slopes with the same |c| are summed before they are multiplied: in onnxruntime on one core an
    RK4 update of a (1, 64, 6, 6) state takes 7.5 µs so, 9.3 µs as a chain of products and 8.4 µs
    with a variadic Sum. A product c·k of a single slope is written once and shared by all
    combinations; c = ±1 leaves no product.
    """

    def __init__(
        self,
        writer: Writer,
        initial: ir.Value,
        dtype: ir.DataType,
        scale: Callable[[float], ir.Value] | None = None,
    ) -> None:
        """``scale`` gives the factor of a coefficient; by default the coefficient itself."""
        self._writer = writer
        self._initial = initial
        self._one = writer.scalar(1.0, dtype)
        self._scale = scale or (lambda coefficient: writer.scalar(coefficient, dtype))
        self._products: dict[tuple[ir.Value, ir.Value], ir.Value] = {}

    def __call__(
        self, base: ir.Value, terms: Iterable[tuple[ir.Value, float]], name: str
    ) -> ir.Value:
        """``base`` + Σ coefficient · slope, called ``name``."""
        total: dict[ir.Value, float] = {}
        for slope, coefficient in terms:
            total[slope] = total.get(slope, 0.0) + coefficient
        groups: dict[ir.Value, list[Signed]] = {}
        for slope, coefficient in total.items():
            if coefficient:
                scale = self._scale(abs(coefficient))
                groups.setdefault(scale, []).append(Signed(coefficient > 0, slope))
        return self._added(base, groups, name)

    def weighted(
        self, base: ir.Value, terms: Iterable[tuple[ir.Value, ir.Value]], name: str
    ) -> ir.Value:
        """``base`` + Σ weight · slope with weights that are known when it runs, called ``name``."""
        groups = {weight: [Signed(True, slope)] for slope, weight in terms}
        return self._added(base, groups, name)

    def _added(self, base: ir.Value, groups: dict[ir.Value, list[Signed]], name: str) -> ir.Value:
        parts = [part for scale, group in groups.items() for part in self._scaled(group, scale)]
        if not parts:
            return base
        positive, increment = self._sum(parts, f"{name}_increment")
        return self._node("Add" if positive else "Sub", base, increment, name)

    def _scaled(self, group: list[Signed], scale: ir.Value) -> list[Signed]:
        """The group's terms times ``scale``; products that exist are taken, the rest summed."""
        if scale is self._one:
            return group
        known = [term for term in group if (term.value, scale) in self._products]
        rest = [term for term in group if term not in known]
        parts = [Signed(p, self._products[value, scale]) for p, value in known]
        if rest:
            name = f"{rest[0].value.name}_scaled"
            positive, value = self._sum(rest, f"{name}_sum")
            product = self._node("Mul", value, scale, name)
            self._products[value, scale] = product
            parts.append(Signed(positive, product))
        return parts

    def _sum(self, terms: list[Signed], name: str) -> Signed:
        """Σ ± value; the result is not positive only when no term is."""
        first, *rest = sorted(terms, key=lambda term: not term.positive)
        value = first.value
        for term in rest:
            same = term.positive == first.positive
            value = self._node("Add" if same else "Sub", value, term.value, name)
        return Signed(first.positive, value)

    def _node(self, op_type: str, a: ir.Value, b: ir.Value, name: str) -> ir.Value:
        return self._writer.node(op_type, [a, b], name, like=self._initial)
