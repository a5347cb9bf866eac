"""A plan of the live PyTorch model as an exported program: ATen operators and weights alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from odedeploy.frontends.evaluation import TorchEvaluator, planned
from odedeploy.frontends.examples import PRIMES, Examples
from odedeploy.frontends.preserve import preserved
from odedeploy.frontends.tracing import aten, exported, named_axes, quiet, traced
from odedeploy.program import Plan

SOURCES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom")
"""What tracing notes of a node: paths of this machine, and the author's own code."""


def program(
    evaluator: TorchEvaluator,
    plan: Plan,
    most: int | None = None,
    rows: int | None = None,
    plain: bool = False,
) -> torch.export.ExportedProgram:
    """The model under ``plan``: inputs by position, a tuple of outputs, float32.

    Its batch is symbolic, of at most ``most`` rows where that is given, or fixed to ``rows``. With
    ``plain``, a sum with a factor becomes a product and a sum, since small runtimes have no kernel
    for the one. Raises Untraceable, with the reason.
    """
    export = partial(_exported, plain=plain)
    examples = Examples.of(evaluator.example, evaluator.static)
    model = evaluator.model
    forward = planned(model, plan, tuple(examples.inputs), evaluator.ways)
    with preserved(model):
        if rows is not None or not examples.batched:
            with quiet():
                flat = aten(examples, forward, True, rows or 1, "real")
                found = export(flat, examples, rows or 1, fixed=True)
        else:
            first = len(examples.inputs[examples.batched[0]])
            second = next(n for n in PRIMES if n > first)
            named = named_axes(model, examples)
            finish = partial(export, examples=examples, batch=first, most=most, named=named)
            found = traced(examples, (first, second), forward, True, finish)
    return _without_sources(found)


def _exported(flat: torch.fx.GraphModule, *args: Any, plain: bool, **kwargs: Any) -> Any:
    """``exported``, with every constant held once, in a storage of its own."""
    held: dict[Any, str] = {}
    dropped: set[str] = set()
    for node in flat.graph.nodes:
        name = str(node.target)
        value = getattr(flat, name, None) if node.op == "get_attr" else None
        if not isinstance(value, Tensor) or isinstance(value, nn.Parameter):
            continue
        own = value.detach().clone(memory_format=torch.contiguous_format)
        key = own.dtype, own.shape, own.reshape(-1).view(torch.uint8).numpy().tobytes()
        node.target = held.setdefault(key, name)
        if node.target == name:
            setattr(flat, name, own)
        else:
            dropped.add(name)
    for name in dropped - set(held.values()):
        delattr(flat, name)
    if plain:
        _split_factors(flat.graph)
    flat.recompile()
    return exported(flat, *args, **kwargs)


def _split_factors(graph: torch.fx.Graph) -> None:
    add, multiply = torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor
    for node in list(graph.nodes):
        if node.target is add and node.kwargs.get("alpha", 1) != 1:
            with graph.inserting_before(node):
                term = graph.call_function(multiply, (node.args[1], node.kwargs["alpha"]))
            node.args, node.kwargs = (node.args[0], term), {}


def _without_sources(found: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    for module in found.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in SOURCES:
                    node.meta.pop(key, None)
    return found
