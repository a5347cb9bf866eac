"""Capture: from a PyTorch model that calls an ODE solver to an ODE graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx_ir as ir
from torch import Tensor, nn

from odedeploy.errors import BadInput, CaptureRefused
from odedeploy.frontends.assembly import assemble
from odedeploy.frontends.evaluation import TorchEvaluator, planned
from odedeploy.frontends.examples import Examples
from odedeploy.frontends.interception import SolveCall, intercept
from odedeploy.frontends.intervals import Way, along
from odedeploy.frontends.markers import marker_handler
from odedeploy.frontends.naming import biases
from odedeploy.frontends.noise import settle
from odedeploy.frontends.preserve import preserved
from odedeploy.frontends.recording import (
    Forward,
    Recording,
    flat_forward,
    flatten,
    input_names,
    record,
    sites,
)
from odedeploy.frontends.simple import VectorField, flow
from odedeploy.frontends.tracing import BATCH, Untraceable, trace
from odedeploy.graph import Inputs, OdeGraph, Site, output_specs
from odedeploy.grid import Grid
from odedeploy.program import Plan, solve_plan
from odedeploy.solvers import find


def capture(
    model: nn.Module,
    inputs: Inputs,
    static: Collection[str] = (),
    replan: bool = False,
    noise: str | None = None,
) -> OdeGraph:
    """The ODE graph of ``model``, no solver chosen yet.

    ``inputs`` are arrays by the names of forward's arguments, the batch on the first axis except
    for those in ``static`` and for single numbers. With ``replan``, calls of fixed-step methods are
    treated as ODEs; otherwise their discretisation is kept exactly. ``noise`` says what becomes of
    noise drawn in forward: ``"fixed"``, one seeded draw for every sample, or ``"input"``. A model
    that solves no ODE has no sites. The model is left as it was.

    Raises CaptureRefused, with the file and line of the solve, for a model that cannot be
    exported, Diverged when its solve does, and BadInput for inputs that do not fit.
    """
    with preserved(model):
        model, examples, recording, found, ways = _recorded(model, inputs, static, replan, noise)
        return _graph(model, examples, recording, found, ways)


def recorded(
    model: nn.Module, inputs: Inputs, static: Collection[str] = (), noise: str | None = None
) -> tuple[TorchEvaluator, tuple[Site, ...]]:
    """The solves of ``model`` and an evaluator of its plans; nothing is traced.

    Takes what ``capture`` takes and raises as it does, but for models that only tracing refuses.
    """
    with preserved(model):
        model, examples, recording, found, ways = _recorded(model, inputs, static, False, noise)
        sizes = examples.batches(y for call in recording.calls for y in call.initial)
        shapes = [
            {name: y.shape for name, y in flatten(record(model, examples.tiled(n)).result).items()}
            for n in sizes
        ]
    axes = {}
    for name, shape in shapes[0].items():
        differ = [i for i, (a, b) in enumerate(zip(shape, shapes[1][name], strict=True)) if a != b]
        if len(differ) != 1:
            raise CaptureRefused(
                f"The output {name!r} has shape {tuple(shape)} for {sizes[0]} inputs and "
                f"{tuple(shapes[1][name])} for {sizes[1]}; return one answer per input."
            )
        axes[name] = differ[0]
    rows = {name: tensor.numpy() for name, tensor in examples.tiled(sizes[0]).items()}
    return TorchEvaluator(model, rows, examples.static, axes, ways), found


def _recorded(
    model: nn.Module, inputs: Inputs, static: Collection[str], replan: bool, noise: str | None
) -> tuple[nn.Module, Examples, Recording, tuple[Site, ...], tuple[Way, ...]]:
    """``model`` with its noise settled, and what two runs of it show."""
    examples = Examples.of(inputs, static)
    recording = record(model, examples.pair(0))
    if recording.draws:
        noisy = settle(model, inputs, recording.draws, 2, noise)
        model = noisy
        examples = Examples.of(noisy.filled(inputs), examples.static)
        recording = record(model, examples.pair(0))
    again = _again(model, examples, recording)
    found, ways = sites(recording, again, examples.batched, replan)
    return model, examples, recording, found, ways


def capture_field(
    f: VectorField, x: np.ndarray, t0: float, t1: float, condition: Inputs
) -> OdeGraph:
    """The ODE graph of dx/dt = ``f`` (t, x, **condition) from ``t0`` to ``t1``, output x at t1.

    ``x`` are states, the batch first. Conditions of rank 0, such as a guidance scale, are run-time
    inputs without a batch axis; the others have the batch first. Raises as ``capture`` does.
    """
    return capture(flow(f, t0, t1, condition), {"x": x, **condition})


def live(graph: OdeGraph) -> TorchEvaluator:
    """The PyTorch model behind a captured graph; raises BadInput for one read from a file."""
    if not isinstance(graph.evaluator, TorchEvaluator):
        raise BadInput("This graph was read from a file and has no PyTorch model; capture it.")
    return graph.evaluator


def _again(model: nn.Module, examples: Examples, first: Recording) -> Recording:
    """A second recording, on inputs that differ in all that the model may depend on."""
    try:
        return record(model, examples.pair(1, first.read))
    except BadInput as error:
        whole = [name for name in first.read if examples.inputs[name].dtype.kind != "f"]
        if not whole:
            raise
        raise CaptureRefused(
            f"{first.read[whole[0]]}: the value of the input {whole[0]!r} is read in Python, which "
            "the exported model cannot do; make it an attribute of the model."
        ) from error


def _graph(
    model: nn.Module,
    examples: Examples,
    recording: Recording,
    found: tuple[Site, ...],
    ways: Sequence[Way],
) -> OdeGraph:
    states = [y for call in recording.calls for y in call.initial]
    outputs = flatten(recording.result)
    batches = examples.batches([*model.parameters(), *model.buffers(), *states, *outputs.values()])
    names = tuple(examples.inputs)
    write = partial(trace, model, examples, batches)
    unrolled: Callable[[Plan], ir.Model] | None = None

    def marked(concrete: bool) -> tuple[ir.Model, tuple[Site, ...]]:
        forward = _marked(model, names, [site.name for site in found], ways)
        return assemble(write(tuple(outputs), forward, concrete), found)

    try:
        try:
            graph, found = marked(concrete=False)
        except Untraceable:
            graph, found = marked(concrete=True)
    except Untraceable as reason:
        if not found:
            raise CaptureRefused(f"The model cannot be captured: {reason}.") from reason
        found = tuple(replace(site, field="") for site in found)
        unrolled = partial(_unrolled, model, write, names, tuple(outputs), ways)
        try:
            graph = unrolled(_least(found))
        except Untraceable as second:
            raise CaptureRefused(
                f"{found[0].location}: the model cannot be captured: {second}; keep such code out "
                "of forward."
            ) from second
    rows = {name: tensor.numpy() for name, tensor in examples.tiled(batches[0]).items()}
    axes = _batch_axes(graph, found) if examples.batched else {}
    found = tuple(replace(site, constants=biases(graph, site, model)) for site in found)
    evaluator = TorchEvaluator(model, rows, examples.static, axes, ways)
    return OdeGraph(graph, found, evaluator, unrolled)


def _marked(
    model: nn.Module, names: tuple[str, ...], solves: Sequence[str], ways: Sequence[Way]
) -> Forward:
    """``model`` with markers in place of its solves."""
    forward = flat_forward(model, names)

    def marked(*tensors: Tensor) -> tuple[Tensor, ...]:
        with intercept(along(ways, marker_handler(solves))):
            return forward(*tensors)

    return marked


def _unrolled(
    model: nn.Module,
    write: Callable[..., ir.Model],
    names: tuple[str, ...],
    outputs: tuple[str, ...],
    ways: Sequence[Way],
    plan: Plan,
) -> ir.Model:
    """ONNX of the model under ``plan``, every evaluation of it traced."""
    added = () if plan.alarm is None else (plan.alarm.output,)
    with preserved(model):
        return write((*outputs, *added), planned(model, plan, names, ways), concrete=True)


def _least(found: Sequence[Site]) -> Plan:
    """One Euler step per output interval, and what is kept."""
    return Plan(
        tuple(
            site.kept or solve_plan(site.name, find("euler"), Grid.through(site.times, 1))
            for site in found
        )
    )


def _batch_axes(graph: ir.Model, found: Sequence[Site]) -> dict[str, int]:
    """Where each output has its batch axis."""
    place = f"{found[0].location}: the" if found else "The"
    axes = {}
    for spec in output_specs(graph):
        if BATCH not in spec.shape:
            raise CaptureRefused(
                f"{place} output {spec.name!r} has the fixed shape {spec.shape}: it does not "
                "follow the batch; take shapes from the inputs inside forward, return one answer "
                "per input, and name inputs without a batch axis with --static NAME."
            )
        axes[spec.name] = spec.shape.index(BATCH)
    return axes


__all__ = [
    "SolveCall",
    "capture",
    "capture_field",
    "input_names",
    "intercept",
    "live",
    "recorded",
]
