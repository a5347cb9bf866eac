"""From a PyTorch model to an ONNX graph with a symbolic batch.

The model is traced to ATen operators first, which also turns a backward pass inside a vector field
into ordinary operators, and then exported. Symbolic tracing comes first. Where it fails, or takes
the batch size of the example for a constant, the model is traced on real inputs at two batch sizes
and the two graphs tell which integers are the batch.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import count
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from odedeploy.errors import BadInput, OdeDeployError
from odedeploy.frontends.aligning import align, holds
from odedeploy.frontends.concrete import Concrete
from odedeploy.frontends.decompositions import FUNCTIONAL
from odedeploy.frontends.examples import Examples
from odedeploy.frontends.naming import rename
from odedeploy.frontends.recording import Forward
from odedeploy.frontends.sparse import Scattered
from odedeploy.graph import OPSET

BATCH = "batch"

VALUE_NEEDED = "Python code branches on a tensor's value, or turns it into a number"
REASONS = {
    "data-dependent": VALUE_NEEDED,
    "get value out of a tracing tensor": VALUE_NEEDED,
    "GuardOnDataDependent": VALUE_NEEDED,
    "entirely functional graph": "an operator writes into a tensor that it shares with others",
}
"""Parts of PyTorch's messages and what they mean to the author of a model."""


CAUSE = "\n\ncaused by "

Result = TypeVar("Result")
NamedAxes = Mapping[str, Mapping[int, str]]


class Untraceable(Exception):
    """The model cannot be traced by this route; the message says why, as the part of a sentence."""


def trace(
    model: nn.Module,
    examples: Examples,
    batches: tuple[int, int],
    outputs: Sequence[str],
    forward: Forward,
    concrete: bool = False,
) -> ir.Model:
    """ONNX of ``model`` as ``forward`` runs it, its solves replaced; the batch is symbolic.

    ``forward`` maps positional tensors to the tensors that are called ``outputs``. ``batches`` are
    two sizes that divide no axis of the model. Inputs without a batch axis keep their shapes. With
    ``concrete``, what follows from constants is computed at once, so that Python code may read it.
    Raises Untraceable with the reason.
    """
    return traced(
        examples, batches, forward, concrete,
        lambda flat: _written(flat, model, examples, batches[0], outputs),
    )  # fmt: skip


def traced(
    examples: Examples,
    batches: tuple[int, int],
    forward: Forward,
    concrete: bool,
    finish: Callable[[torch.fx.GraphModule], Result],
) -> Result:
    """What ``finish`` makes of the ATen operators of ``forward``, by the first route on which it
    succeeds; takes what ``trace`` takes and raises as it does."""
    flat = partial(aten, examples, forward, concrete)
    reasons = []
    for route in (_symbolic, _paired):
        try:
            with quiet():
                return finish(route(flat, examples, batches))
        except (OdeDeployError, Untraceable):
            raise
        except Exception as error:
            reasons.append(error)
    raise Untraceable(_reason(reasons)) from reasons[0]


def aten(
    examples: Examples, forward: Forward, concrete: bool, batch: int, mode: Mode
) -> torch.fx.GraphModule:
    """The ATen operators of ``forward`` on ``batch`` rows."""
    constants = Concrete() if concrete else nullcontext()

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        with constants, Scattered():
            return forward(*tensors)

    tensors = tuple(examples.tiled(batch).values())
    with torch.enable_grad():
        return make_fx(run, tracing_mode=mode, _allow_non_fake_inputs=True)(*tensors)


Mode = Literal["symbolic", "real"]
Flat = Callable[[int, Mode], torch.fx.GraphModule]
"""Traces at a batch size, in one of make_fx's modes."""


def _symbolic(flat: Flat, examples: Examples, batches: tuple[int, int]) -> torch.fx.GraphModule:
    graph = flat(batches[0], "symbolic")
    if examples.batched and holds(graph, batches[0]):
        raise ValueError("the batch size of the example is held as a constant")
    return graph


def _paired(flat: Flat, examples: Examples, batches: tuple[int, int]) -> torch.fx.GraphModule:
    first, second = (flat(batch, "real") for batch in batches)
    if not examples.batched:
        return first
    return align(first, second, batches, list(examples.inputs).index(examples.batched[0]))


def exported(
    flat: torch.fx.GraphModule,
    examples: Examples,
    batch: int,
    most: int | None = None,
    fixed: bool = False,
    named: NamedAxes = MappingProxyType({}),
) -> torch.export.ExportedProgram:
    """The program of ``flat``, which was traced on ``batch`` rows of ``examples``.

    Its batch is symbolic, up to ``most`` rows where that is given, and so are the axes that are
    ``named``, unless all are ``fixed``.
    """
    for target in _constants(flat):
        value = getattr(flat, target)
        if value.requires_grad and not isinstance(value, nn.Parameter):
            setattr(flat, target, value.detach())
    tensors = tuple(examples.tiled(batch).values())
    free = None if fixed else _dynamic_shapes(examples, named, most)
    program = torch.export.export(flat.eval(), tensors, dynamic_shapes=free, strict=False)
    if any(node.target is torch.ops.aten.diagonal.default for node in flat.graph.nodes):
        program = program.run_decompositions(FUNCTIONAL)
    return program


def _written(
    flat: torch.fx.GraphModule,
    model: nn.Module,
    examples: Examples,
    batch: int,
    outputs: Sequence[str],
) -> ir.Model:
    originals = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
    renamed = {
        target: originals[id(value)]
        for target in _constants(flat)
        if id(value := getattr(flat, target)) in originals
    }
    names = tuple(examples.inputs)
    named = named_axes(model, examples)
    shapes = _dynamic_shapes(examples, named)
    program = torch.onnx.export(
        exported(flat, examples, batch, named=named), dynamo=True, dynamic_shapes=shapes,
        input_names=names, output_names=outputs, opset_version=OPSET, verbose=False,
    )  # fmt: skip
    assert program is not None
    _free_names(program.model.graph)
    parameters = model.named_parameters()
    read = {name: p for name, p in parameters if p.dim() == 1 and name in renamed.values()}
    rename(program.model, renamed, read)
    return program.model


def named_axes(model: nn.Module, examples: Examples) -> NamedAxes:
    """``model.dynamic_axes``, where there is one: input names to {axis: name}.

    Axes of one name are equal. Raises BadInput for an input that is none.
    """
    named: NamedAxes = getattr(model, "dynamic_axes", {})
    if unknown := sorted(set(named) - set(examples.inputs)):
        raise BadInput(
            f"dynamic_axes names {unknown[0]!r}; the inputs are {', '.join(examples.inputs)}."
        )
    return named


def _dynamic_shapes(
    examples: Examples, named: NamedAxes, most: int | None = None
) -> tuple[dict[int, Any] | None, ...]:
    """By input, its symbolic axes: the batch, of at most ``most`` rows, and those ``named``."""
    sizes = {name: torch.export.Dim(name) for axes in named.values() for name in axes.values()}
    batch = torch.export.Dim(BATCH) if most is None else torch.export.Dim(BATCH, min=1, max=most)
    shapes: list[dict[int, Any] | None] = []
    for name in examples.inputs:
        axes = {0: batch} if name in examples.batched else {}
        axes |= {axis: sizes[symbol] for axis, symbol in named.get(name, {}).items()}
        shapes.append(axes or None)
    return tuple(shapes)


def _constants(flat: torch.fx.GraphModule) -> set[str]:
    names = {str(node.target) for node in flat.graph.nodes if node.op == "get_attr"}
    return {name for name in names if isinstance(getattr(flat, name, None), Tensor)}


def _free_names(graph: ir.Graph) -> None:
    """Other names for values that the exporter called as an input or output is called."""
    ends = {id(value) for value in (*graph.inputs, *graph.outputs)}
    taken = {value.name for value in (*graph.inputs, *graph.outputs)}
    inner = [*graph.initializers.values(), *(v for node in graph for v in node.outputs)]
    used = taken.union(value.name for value in inner)
    for value in inner:
        if value.name in taken and id(value) not in ends:
            value.name = next(n for i in count() if (n := f"{value.name}_inner{i}") not in used)
            used.add(value.name)


def _reason(errors: Sequence[Exception]) -> str:
    """Why, as the end of the sentence "it cannot be captured: …"."""
    texts = [_chain(error) for error in errors]
    for text in texts:
        if found := re.search(r"op='(aten\.\w+)'|for \[?'?(aten\.\w+)", text):
            operator = found.group(1) or found.group(2)
            return f"the operator {operator} has no ONNX counterpart"
    for sign, reason in REASONS.items():
        if any(sign in text for text in texts):
            return reason
    return texts[0].rpartition(CAUSE)[2].strip().splitlines()[0][:300].rstrip(".")


def _chain(error: BaseException | None) -> str:
    """An exception and its causes, the root last."""
    parts = []
    while error is not None:
        parts.append(f"{type(error).__name__}: {error}")
        error = error.__cause__
    return CAUSE.join(parts)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's notices, none of which a user can act on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


__all__ = ["BATCH", "Untraceable", "aten", "exported", "quiet", "trace", "traced"]
