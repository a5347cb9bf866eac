"""A plan of the live PyTorch model as an exported program: ATen operators and weights alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from odedeploy.frontends.evaluation import TorchEvaluator, planned
from odedeploy.frontends.examples import PRIMES, Examples
from odedeploy.frontends.preserve import preserved
from odedeploy.frontends.tracing import aten, exported, quiet, traced
from odedeploy.program import Plan

SOURCES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom")
"""What tracing notes of a node: paths of this machine, and the author's own code."""


def program(
    evaluator: TorchEvaluator, plan: Plan, most: int | None = None, rows: int | None = None
) -> torch.export.ExportedProgram:
    """The model under ``plan``: inputs by position, a tuple of outputs, float32.

    Its batch is symbolic, of at most ``most`` rows where that is given, or fixed to ``rows``.
    Raises Untraceable, with the reason.
    """
    examples = Examples.of(evaluator.example, evaluator.static)
    model = evaluator.model
    forward = planned(model, plan, tuple(examples.inputs), evaluator.ways)
    with preserved(model):
        if rows is not None or not examples.batched:
            with quiet():
                flat = aten(examples, forward, True, rows or 1, "real")
                found = _exported(flat, examples, rows or 1, fixed=True)
        else:
            first = len(examples.inputs[examples.batched[0]])
            second = next(n for n in PRIMES if n > first)
            finish = partial(_exported, examples=examples, batch=first, most=most)
            found = traced(examples, (first, second), forward, True, finish)
    return _without_sources(found)


def _exported(flat: torch.fx.GraphModule, *args: Any, **kwargs: Any) -> Any:
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
    flat.recompile()
    return exported(flat, *args, **kwargs)


def _without_sources(found: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    for module in found.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in SOURCES:
                    node.meta.pop(key, None)
    return found
