"""A new plan for the ODE graph inside an exported file, found without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from odedeploy import metrics
from odedeploy.control_search import search_control
from odedeploy.errors import BadInput
from odedeploy.evaluator import OnnxEvaluator
from odedeploy.graph import OdeGraph, input_specs
from odedeploy.graph.serial import unpack
from odedeploy.lowering import check_form
from odedeploy.passes import clean
from odedeploy.planned import Planned, Progress, Stopwatch, silent
from odedeploy.reference import solve as solve_reference
from odedeploy.runtime import GRAPH, Model, load
from odedeploy.search import achievable, search, split
from odedeploy.spec import ExportSpec


def planned_again(
    path: Path, spec: ExportSpec, inputs: Any = None, progress: Progress = silent
) -> tuple[OdeGraph, Planned]:
    """The ODE graph in ``path`` and its plan for ``spec``, everything run in onnxruntime.

    Without ``inputs`` the golden ones are used, and the plan carries a warning of how little they
    prove. Raises BadInput for a file without an ODE graph, and for inputs that do not fit.
    """
    watch = Stopwatch()
    with watch("load"):
        artefact = load(path)
        graph = read_graph(path, artefact)
    check_form(graph, spec.form)
    plain = OnnxEvaluator(graph)
    graph.evaluator = plain
    given, warnings = _calibration(graph, artefact, path, inputs, spec)
    splits = split(given, spec, plain.static)
    with watch("reference"):
        reference = solve_reference(
            plain, graph.sites, splits.inputs, metrics.of(spec), progress, splits.static
        )
    with watch("search"):
        if spec.form == "adaptive":
            found = search_control(graph, spec, splits, reference, progress)
        else:
            optimised = OnnxEvaluator(graph, lambda model, plan: clean(model), loops=True)
            found = search(optimised, graph.sites, spec, splits, reference, progress)
    before = artefact.manifest
    if artefact.alarm is not None:
        warnings += (
            f"{path.name} has the alarm {artefact.alarm!r}, which is fitted to its own plan; the "
            "new file has none. An alarm takes an export of the model.",
        )
    notes = {"retargeted": {"file": path.name, "tol": None if before is None else before.tol}}
    planned = Planned(
        spec, splits, reference, found, watch.seconds, notes=notes, warnings=warnings
    )
    return graph, planned


def read_graph(path: Path, artefact: Model) -> OdeGraph:
    """The ODE graph that travels in an exported ONNX file, with the file's weights.

    Raises BadInput when the file has none.
    """
    import onnx_ir as ir

    text = artefact.metadata.get(GRAPH)
    if text is None:
        raise BadInput(
            f"{path} carries no ODE graph: its plan was traced, or odedeploy did not write it; "
            "export the model again."
        )
    weights = {
        str(name): value.const_value.numpy()
        for body in ir.load(path).graphs()
        for name, value in body.initializers.items()
        if value.const_value is not None
    }
    return unpack(text, weights)


def _calibration(
    graph: OdeGraph, artefact: Model, path: Path, inputs: Any, spec: ExportSpec
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Calibration inputs by name, and what there is to say about them."""
    if inputs is not None:
        return _named(graph, inputs), ()
    if artefact.golden is None:
        raise BadInput(f"{path} holds no golden inputs; give inputs with --inputs FILE.")
    arrays = dict(artefact.golden.inputs)
    batched = [len(arrays[s.name]) for s in artefact.inputs if s.shape and s.name in arrays]
    few = max(1, max(batched, default=1) // 2)
    return arrays, (
        f"Calibrated on the {max(batched, default=1)} golden inputs of {path.name} alone, which "
        f"prove the tolerance for {achievable(few, spec.confidence):.0%} of inputs at most; give "
        "more with --inputs FILE.",
    )


def _named(graph: OdeGraph, inputs: Any) -> dict[str, np.ndarray]:
    specs = input_specs(graph.model)
    names = [spec.name for spec in specs]
    if not isinstance(inputs, Mapping):
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        if len(given) != len(names):
            raise BadInput(f"The model takes the inputs {names}, got {len(given)} arrays.")
        inputs = dict(zip(names, given, strict=True))
    if sorted(inputs) != sorted(names):
        raise BadInput(f"The model takes the inputs {names}, got {sorted(inputs)}.")
    arrays = {}
    for spec in specs:
        array = np.asarray(inputs[spec.name])
        if array.dtype.kind == "f" and np.dtype(spec.dtype).kind == "f":
            array = array.astype(spec.dtype, copy=False)
        fits = array.ndim == len(spec.shape) and all(
            isinstance(wanted, str) or wanted == size
            for wanted, size in zip(spec.shape, array.shape, strict=True)
        )
        if array.dtype != spec.dtype or not fits:
            raise BadInput(
                f"The input {spec.name!r} is {array.dtype}{list(array.shape)}, the model takes "
                f"{spec.dtype}{list(spec.shape)}; convert it."
            )
        arrays[spec.name] = array
    return arrays
