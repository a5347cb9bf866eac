"""From a PyTorch model with marked solves to an ONNX graph with the markers in it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from odedeploy.errors import CaptureRefused, OdeDeployError
from odedeploy.frontends.interception import Handler, intercept
from odedeploy.frontends.recording import Forward, flat_forward
from odedeploy.graph import OPSET

BATCH = "batch"


def trace(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    static: frozenset[str],
    handler: Handler,
) -> ir.Model:
    """ONNX of ``model`` with its solves as marker operators and a symbolic first axis.

    The model is traced to ATen operators first, which also turns a backward pass inside a vector
    field into ordinary operators, and then exported. Inputs in ``static`` keep their first axis.

    Raises CaptureRefused with the exporter's reason when an operator has no ONNX counterpart.
    """
    names = tuple(inputs)
    example = tuple(inputs[name].clone() for name in names)
    try:
        with _quiet():
            with intercept(handler):
                flat = make_fx(
                    flat_forward(model, names), tracing_mode="symbolic", _allow_non_fake_inputs=True
                )(*example)
            originals = _named_tensors(model)
            renamed = {
                target: originals[id(value)]
                for target in _constants(flat)
                if id(value := getattr(flat, target)) in originals
            }
            exported = _export(flat.eval(), names, example, outputs, static)
    except OdeDeployError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CaptureRefused(
            f"The model cannot be traced: {type(error).__name__}: {reason[0][:300]}"
        ) from error
    _rename(exported, renamed)
    return exported


def _export(
    flat: torch.fx.GraphModule,
    names: tuple[str, ...],
    example: tuple[Tensor, ...],
    outputs: Sequence[str],
    static: frozenset[str],
) -> ir.Model:
    batch = torch.export.Dim(BATCH)
    shapes: tuple[Any, ...] = tuple(None if name in static else {0: batch} for name in names)
    program = torch.onnx.export(
        flat, tuple(t.detach().clone() for t in example), dynamo=True, dynamic_shapes=shapes,
        input_names=names, output_names=outputs, opset_version=OPSET, verbose=False,
    )
    assert program is not None
    return program.model


def _constants(flat: torch.fx.GraphModule) -> set[str]:
    """Names of the tensors that the traced graph holds; graph surgery needs them detached."""
    names = {str(node.target) for node in flat.graph.nodes if node.op == "get_attr"}
    return {name for name in names if isinstance(getattr(flat, name, None), Tensor)}


def _named_tensors(model: nn.Module) -> dict[int, str]:
    return {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}


def _rename(model: ir.Model, names: Mapping[str, str]) -> None:
    """Give weights the names they have in the PyTorch model."""
    graph = model.graph
    for old, new in names.items():
        if old in graph.initializers and new not in graph.initializers:
            graph.initializers[old].name = new


@contextmanager
def _quiet() -> Iterator[None]:
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


__all__ = ["BATCH", "Forward", "trace"]
