"""Telling the batch size from other integers by two traces at two batch sizes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree


def holds(flat: fx.GraphModule, batch: int) -> bool:
    """Whether an integer or a shape in a symbolic trace is a multiple of ``batch``."""

    def baked(value: Any) -> bool:
        return type(value) is int and value > 0 and value % batch == 0

    for node in flat.graph.nodes:
        if any(baked(leaf) for leaf in pytree.tree_leaves((node.args, node.kwargs))):
            return True
        shapes = [v.shape for v in pytree.tree_leaves(node.meta.get("val")) if _is_tensor(v)]
        if any(baked(length) for shape in shapes for length in shape):
            return True
    return False


def align(
    first: fx.GraphModule, second: fx.GraphModule, batches: tuple[int, int], position: int
) -> fx.GraphModule:
    """``first`` with every integer that differs from ``second`` written in terms of the batch.

    Such an integer must be a·batch + b with whole a and b, b smaller than the batch sizes, which
    tells it from a square of the batch. The batch is the first axis of the input at ``position``.
    Raises ValueError when the graphs differ otherwise.
    """
    nodes, others = list(first.graph.nodes), list(second.graph.nodes)
    if [_operation(n) for n in nodes] != [_operation(n) for n in others]:
        raise ValueError("the operations depend on the batch size or on the inputs' values")
    inputs = [node for node in nodes if node.op == "placeholder"]
    with first.graph.inserting_after(inputs[-1]):
        size = first.graph.call_function(torch.ops.aten.sym_size.int, (inputs[position], 0))
    affine = _Affine(first.graph, size, batches)
    for node, other in zip(nodes, others, strict=True):
        if node.op == "get_attr":
            _expand(first, node, getattr(second, str(other.target)), size)
            continue
        with first.graph.inserting_before(node):
            node.args, node.kwargs = _matched((node.args, node.kwargs),
                                              (other.args, other.kwargs), affine)  # fmt: skip
    first.graph.eliminate_dead_code()
    first.recompile()
    return first


class _Affine:
    """Writes a·batch + b for a pair of integers."""

    def __init__(self, graph: fx.Graph, size: fx.Node, batches: tuple[int, int]) -> None:
        self._graph, self._size, self._batches = graph, size, batches

    def __call__(self, a: int, b: int) -> fx.Node:
        p, q = self._batches
        factor, rest = divmod(a - b, p - q)
        offset = a - factor * p
        if rest or abs(offset) >= min(p, q):
            raise ValueError(f"{a} and {b} do not follow the batch sizes {p} and {q}")
        value = self._size
        if factor != 1:
            value = self._graph.call_function(operator.mul, (value, factor))
        return self._graph.call_function(operator.add, (value, offset)) if offset else value


def _operation(node: fx.Node) -> Any:
    return node.op, node.target if node.op == "call_function" else None


def _matched(mine: Any, others: Any, affine: Callable[[int, int], fx.Node]) -> Any:
    leaves, spec = pytree.tree_flatten(mine)
    theirs, their_spec = pytree.tree_flatten(others)
    if spec != their_spec:
        raise ValueError("an operator's arguments depend on the batch size")
    return pytree.tree_unflatten(
        [_leaf(a, b, affine) for a, b in zip(leaves, theirs, strict=True)], spec
    )


def _leaf(a: Any, b: Any, affine: Callable[[int, int], fx.Node]) -> Any:
    if isinstance(a, fx.Node) or a == b:
        return a
    if type(a) is int and type(b) is int:
        return affine(a, b)
    raise ValueError(f"{a!r} becomes {b!r} at another batch size or on other inputs")


def _expand(flat: fx.GraphModule, node: fx.Node, other: Any, size: fx.Node) -> None:
    """A constant with a row per sample becomes one row, expanded to the batch."""
    mine = getattr(flat, str(node.target))
    if not (isinstance(mine, Tensor) and isinstance(other, Tensor)) or mine is other:
        return
    if mine.shape == other.shape:
        if not torch.equal(mine, other):
            raise ValueError("a constant depends on the inputs' values")
        return
    axes = [i for i, (a, b) in enumerate(zip(mine.shape, other.shape, strict=True)) if a != b]
    row = mine.narrow(axes[0], 0, 1)
    if len(axes) != 1 or not torch.equal(row.expand_as(mine), mine):
        raise ValueError("a constant has another value for every sample of the batch")
    setattr(flat, str(node.target), row.clone())
    shape = [size if i == axes[0] else -1 for i in range(mine.dim())]
    with flat.graph.inserting_after(max(node, size)):
        expanded = flat.graph.call_function(torch.ops.aten.expand.default, (node, shape))
    node.replace_all_uses_with(expanded, delete_user_cb=lambda user: user is not expanded)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
