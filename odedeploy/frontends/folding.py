"""Evaluating once, while tracing, what is computed from constants such as stage times alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

LARGEST = 4096
"""Most numbers of a folded constant."""


def fold(flat: fx.GraphModule, weights: Collection[int]) -> None:
    """Replace operators on constants by their values, in place.

    Constants are the tensors that tracing met and that are not among ``weights`` (by identity);
    what is computed from weights alone stays, so that no weight is stored twice.
    """
    known: dict[fx.Node, Tensor] = {}
    fresh: set[fx.Node] = set()
    for node in list(flat.graph.nodes):
        if node.op == "get_attr":
            value = getattr(flat, str(node.target), None)
            if isinstance(value, Tensor):
                known[node] = value
                if id(value) not in weights:
                    fresh.add(node)
        elif _foldable(node, known, fresh):
            value = _value(node, known)
            if isinstance(value, Tensor) and value.numel() <= LARGEST:
                replacement = _constant(flat, node, value, len(known))
                known[replacement] = value
                fresh.add(replacement)
    flat.graph.eliminate_dead_code()
    flat.recompile()


def _foldable(node: fx.Node, known: dict[fx.Node, Tensor], fresh: set[fx.Node]) -> bool:
    read = node.all_input_nodes
    target = node.target
    return (
        isinstance(target, torch._ops.OpOverload)
        and target.namespace == "aten"
        and not target._schema.is_mutable
        and torch.Tag.nondeterministic_seeded not in target.tags
        and all(source in known for source in read)
        and any(source in fresh for source in read)
    )


def _value(node: fx.Node, known: dict[fx.Node, Tensor]) -> Any:
    args, kwargs = pytree.tree_map(
        lambda leaf: known[leaf] if isinstance(leaf, fx.Node) else leaf, (node.args, node.kwargs)
    )
    assert isinstance(node.target, torch._ops.OpOverload)
    with torch.no_grad():
        return node.target(*args, **kwargs)


def _constant(flat: fx.GraphModule, node: fx.Node, value: Tensor, number: int) -> fx.Node:
    name = f"_folded_{number}"
    flat.register_buffer(name, value.detach().clone().contiguous())
    with flat.graph.inserting_before(node):
        replacement = flat.graph.get_attr(name)
    replacement.meta = dict(node.meta)
    node.replace_all_uses_with(replacement)
    flat.graph.erase_node(node)
    return replacement
