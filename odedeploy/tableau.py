"""Explicit solvers as data: Runge–Kutta tableaus and Adams–Bashforth methods.

A method is a frozen record that is checked when it is built. Order conditions run over rooted
trees (Butcher 2016, "Numerical Methods for Ordinary Differential Equations", section 31): a
Runge–Kutta method has order p when b·ψ(τ) = 1/γ(τ) for every rooted tree τ of up to p vertices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from itertools import pairwise
from math import prod
from typing import Literal, TypeVar

from odedeploy.errors import BadInput

Number = TypeVar("Number", float, Fraction)
Weights = tuple[Fraction, ...]
Start = Literal["euler", "midpoint"]

_ROUND_OFF = 1e-12
"""Slack of the float64 order check at construction."""

_START_ORDER: dict[str, int] = {"euler": 1, "midpoint": 2}


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge–Kutta method of s stages: y₁ = y₀ + h Σ b_j k_j.

    ``a`` holds s rows, row i with i entries, so that the matrix is strictly lower triangular.
    ``b_low`` are the embedded weights of order ``order_low``, of length s, or s + 1 when they
    also weigh the slope at the end of the step. ``exact`` is False where ``source`` publishes
    rounded coefficients, whose order conditions hold only up to the rounding.

    Raises BadInput when shapes do not fit or an order condition fails (float64, slack 1e-12).
    """

    name: str
    order: int
    a: tuple[Weights, ...]
    b: Weights
    source: str
    b_low: Weights | None = None
    order_low: int | None = None
    exact: bool = True

    @classmethod
    def of(
        cls,
        name: str,
        order: int,
        a: Sequence[str],
        b: str,
        source: str,
        *,
        b_low: str | None = None,
        order_low: int | None = None,
        exact: bool = True,
    ) -> Tableau:
        """From text: each row of ``a`` from the second on, as in ``a=("1/2", "0 1/2", "0 0 1")``.

        A coefficient is an integer, a fraction or a decimal; it is taken exactly as written.
        """
        rows = tuple(_parse(row) for row in ("", *a))
        low = None if b_low is None else _parse(b_low)
        return cls(name, order, rows, _parse(b), source, low, order_low, exact)

    def __post_init__(self) -> None:
        if self.order < 1 or [len(row) for row in self.a] != list(range(len(self.b))):
            raise BadInput(
                f"Tableau {self.name!r} of order {self.order} has {len(self.b)} weights and rows "
                f"of lengths {[len(row) for row in self.a]}; give order >= 1 and lengths 0, 1, 2, …"
            )
        self._check(self.a, self.b, self.order)
        if (self.b_low is None) != (self.order_low is None):
            raise BadInput(f"Tableau {self.name!r} needs both b_low and order_low, or neither.")
        if self.b_low is not None and self.order_low is not None:
            if len(self.b_low) not in (self.stages, self.stages + 1):
                raise BadInput(
                    f"Tableau {self.name!r} has {len(self.b_low)} embedded weights; give "
                    f"{self.stages}, or {self.stages + 1} with the slope at the step's end."
                )
            self._check((*self.a, self.b)[: len(self.b_low)], self.b_low, self.order_low)

    def _check(self, a: Sequence[Weights], b: Weights, order: int) -> None:
        rows, weights = [[float(x) for x in row] for row in a], [float(x) for x in b]
        for p in range(1, order + 1):
            miss = order_residual(rows, weights, p)
            if not miss <= _ROUND_OFF:
                raise BadInput(
                    f"Tableau {self.name!r} misses an order-{p} condition by {miss:.1e}; "
                    "correct its coefficients or declare a lower order."
                )

    @property
    def stages(self) -> int:
        """Evaluations of the vector field per step."""
        return len(self.b)

    @cached_property
    def c(self) -> Weights:
        """Stage times in units of the step: the row sums of ``a``."""
        return tuple(sum(row, Fraction(0)) for row in self.a)

    def evaluations(self, steps: int) -> int:
        """Evaluations of the vector field that ``steps`` steps cost (NFE)."""
        return self.stages * steps

    def steps(self, nfe: int) -> int | None:
        """Number of steps that costs exactly ``nfe`` evaluations; None if there is none."""
        steps, rest = divmod(nfe, self.stages)
        return steps if steps >= 1 and rest == 0 else None


@dataclass(frozen=True)
class Adams:
    """Adams–Bashforth over the ``history`` newest slopes, one evaluation per step.

    Step i combines the min(i, history) slopes that exist by then; the first step is one step of
    Euler or of the explicit midpoint method (one evaluation more), whose slope at the initial time
    enters the history. Weights follow the grid (``adams_weights``), uniform or not.

    Raises BadInput for a history below 2 or an unknown start.
    """

    name: str
    history: int
    start: Start
    source: str

    def __post_init__(self) -> None:
        if self.history < 2:
            raise BadInput(
                f"Adams method {self.name!r} combines {self.history} slopes; give 2 or more."
            )
        if self.start not in _START_ORDER:
            raise BadInput(
                f"Adams method {self.name!r} starts with {self.start!r}; "
                f"use one of {', '.join(_START_ORDER)}."
            )

    @property
    def order(self) -> int:
        """Order reached: the first step is taken once, so its local error of size
        h^(order of the start + 1) bounds the global error as it is; every later step of the
        ramp-up is at least as accurate locally.
        """
        return min(self.history, _START_ORDER[self.start] + 1)

    @property
    def _extra(self) -> int:
        return int(self.start == "midpoint")

    def evaluations(self, steps: int) -> int:
        """Evaluations of the vector field that ``steps`` >= 1 steps cost (NFE)."""
        return steps + self._extra

    def steps(self, nfe: int) -> int | None:
        """Number of steps that costs exactly ``nfe`` evaluations; None if there is none."""
        steps = nfe - self._extra
        return steps if steps >= 1 else None


Method = Tableau | Adams


def adams_weights(nodes: Sequence[Number]) -> list[Number]:
    """Weights of slopes at ``nodes`` that integrate their interpolating polynomial over [0, 1].

    Nodes are distinct times in units of the step, (t_m − t_i)/h_i, the newest being 0. The weights
    are ∫₀¹ ℓ_m(s) ds of the Lagrange polynomials ℓ_m, the solution of Σ_m w_m s_m^p = 1/(p + 1)
    for p < len(nodes) (Hairer, Nørsett, Wanner 1993, section III.5). Rational nodes give
    rational weights.
    """
    zero = nodes[0] * 0
    weights: list[Number] = []
    for node in nodes:
        basis: list[Number] = [zero + 1]
        for other in nodes:
            if other != node:
                shifted = pairwise([zero] + basis + [zero])
                basis = [(up - other * same) / (node - other) for up, same in shifted]
        weights.append(sum((x / (p + 1) for p, x in enumerate(basis)), zero))
    return weights


@dataclass(frozen=True)
class Tree:
    """A rooted tree, given by the subtrees at its root."""

    children: tuple[Tree, ...]

    @cached_property
    def vertices(self) -> int:
        return 1 + sum(child.vertices for child in self.children)

    @cached_property
    def density(self) -> int:
        """γ: the vertices of the tree times the densities of its subtrees."""
        return self.vertices * prod(child.density for child in self.children)


@cache
def rooted_trees(vertices: int) -> tuple[Tree, ...]:
    """All rooted trees with ``vertices`` vertices: 1, 1, 2, 4, 9, 20, 48, 115, … of them."""
    smaller = [tree for n in range(1, vertices) for tree in rooted_trees(n)]
    return tuple(Tree(forest) for forest in _forests(vertices - 1, smaller))


def _forests(vertices: int, trees: Sequence[Tree]) -> Iterator[tuple[Tree, ...]]:
    """Multisets of ``trees`` with ``vertices`` vertices in total, later trees first."""
    if vertices == 0:
        yield ()
    for i, tree in enumerate(trees):
        if tree.vertices <= vertices:
            for rest in _forests(vertices - tree.vertices, trees[: i + 1]):
                yield (tree, *rest)


def order_residual(a: Sequence[Sequence[Number]], b: Sequence[Number], order: int) -> Number:
    """Largest |b·ψ(τ) − 1/γ(τ)| over rooted trees τ of ``order`` vertices; ``a`` by ragged rows.

    ψ(τ) is the elementwise product of A·ψ(child) over the root's subtrees. Floats and fractions
    alike: rational coefficients give the exact residual.
    """
    pushed: dict[int, list[Number]] = {}

    def psi(tree: Tree) -> list[Number]:
        return [prod(at) for at in zip(*map(push, tree.children), strict=True)] or [
            x * 0 + 1 for x in b
        ]

    def push(tree: Tree) -> list[Number]:
        if id(tree) not in pushed:
            values = psi(tree)
            pushed[id(tree)] = [_dot(row, values) for row in a]
        return pushed[id(tree)]

    trees = rooted_trees(order)
    return max(abs(_dot(b, psi(tree)) * tree.density - 1) / tree.density for tree in trees)


def _dot(row: Sequence[Number], values: Sequence[Number]) -> Number:
    return sum((x * y for x, y in zip(row, values, strict=False) if x), values[0] * 0)


def _parse(row: str) -> Weights:
    return tuple(Fraction(entry) for entry in row.split())
