"""Capture: from a PyTorch model that calls an ODE solver to an ODE graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from odedeploy.errors import BadInput, CaptureRefused
from odedeploy.frontends.assembly import assemble
from odedeploy.frontends.evaluation import TorchEvaluator
from odedeploy.frontends.interception import SolveCall, intercept
from odedeploy.frontends.markers import marker_handler
from odedeploy.frontends.preserve import preserved
from odedeploy.frontends.recording import flatten, input_names, record, sites
from odedeploy.frontends.tracing import BATCH, trace
from odedeploy.graph import Inputs, OdeGraph, output_specs

PRIMES = (5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)


def capture(
    model: nn.Module, inputs: Inputs, static: Collection[str] = (), replan: bool = False
) -> OdeGraph:
    """The ODE graph of ``model``, no solver chosen yet.

    ``inputs`` are arrays by the names of forward's arguments, the batch on the first axis except
    for those in ``static``. With ``replan``, calls of fixed-step methods are treated as ODEs;
    otherwise their discretisation is kept exactly. The model is left as it was.

    Raises CaptureRefused, with the file and line of the solve, for a model that cannot be
    exported, Diverged when its solve does, and BadInput for inputs that do not fit.
    """
    fixed = frozenset(static)
    with preserved(model):
        first, second = (_rows(inputs, fixed, part) for part in range(2))
        recording = record(model, first)
        found = sites(recording, record(model, second), replan)
        outputs = tuple(flatten(recording.result))
        example = _tiled(inputs, fixed, model, [call.initial for call in recording.calls])
        marked = trace(model, example, outputs, fixed, marker_handler([s.name for s in found]))
    graph = assemble(marked, found)
    rows = {name: np.asarray(tensor) for name, tensor in example.items()}
    axes = _batch_axes(graph) if set(inputs) - fixed else {}
    return OdeGraph(graph, found, TorchEvaluator(model, rows, fixed, axes))


def live(graph: OdeGraph) -> TorchEvaluator:
    """The PyTorch model behind a captured graph; raises BadInput for one read from a file."""
    if not isinstance(graph.evaluator, TorchEvaluator):
        raise BadInput("This graph was read from a file and has no PyTorch model; capture it.")
    return graph.evaluator


def _batch_axes(graph: ir.Model) -> dict[str, int]:
    """Where each output has its batch axis."""
    axes = {}
    for spec in output_specs(graph):
        if BATCH not in spec.shape:
            raise CaptureRefused(
                f"The output {spec.name!r} has the fixed shape {spec.shape}: it does not follow "
                "the batch; take shapes from the inputs inside forward, and return one answer per "
                "input."
            )
        axes[spec.name] = spec.shape.index(BATCH)
    return axes


def _rows(inputs: Inputs, static: frozenset[str], part: int) -> dict[str, Tensor]:
    """Two of the given rows, others for each ``part`` as far as there are any."""
    chosen = {}
    for name, array in inputs.items():
        if name in static:
            chosen[name] = torch.from_numpy(np.array(array))
            continue
        if not len(array):
            raise BadInput(f"The input {name!r} is empty; give at least one row.")
        chosen[name] = torch.from_numpy(np.take(array, [2 * part, 2 * part + 1], 0, mode="wrap"))
    return chosen


def _tiled(
    inputs: Inputs, static: frozenset[str], model: nn.Module, states: list[tuple[Tensor, ...]]
) -> Mapping[str, Tensor]:
    """Rows repeated to a batch size that no other axis has.

    Symbolic tracing takes axes of equal length for the same axis.
    """
    tensors = [*model.parameters(), *model.buffers(), *(y for state in states for y in state)]
    taken = {n for tensor in tensors for n in tensor.shape}
    taken |= {n for array in inputs.values() for n in np.shape(array)[1:]}
    batch = next((p for p in PRIMES if p not in taken), PRIMES[-1])
    return {
        name: torch.from_numpy(
            np.array(array) if name in static else np.take(array, range(batch), 0, mode="wrap")
        )
        for name, array in inputs.items()
    }


__all__ = ["SolveCall", "capture", "input_names", "intercept", "live"]
