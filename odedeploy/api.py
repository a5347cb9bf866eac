"""The library's verbs, each a list of calls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from odedeploy import files, formats, lowering, metrics
from odedeploy.delivery import captured, check_folder, deliver
from odedeploy.errors import BadInput, FellShort, UnknownName, Unusable
from odedeploy.fastest import AUTO, candidates, deliver_fastest
from odedeploy.graph import OdeGraph
from odedeploy.input_files import read_inputs
from odedeploy.manifest import Manifest
from odedeploy.planned import Planned, Progress, Stopwatch, silent
from odedeploy.planning import plan_splits
from odedeploy.reference import Reference, take
from odedeploy.reference import solve as solve_reference
from odedeploy.reverification import VerifyReport, verified_again
from odedeploy.runtime import read_manifest
from odedeploy.search import Splits, minimum_samples, promise, split
from odedeploy.spec import ExportSpec
from odedeploy.targets import find as find_target
from odedeploy.targets import usable

if TYPE_CHECKING:
    from torch import nn

    from odedeploy.checking import Check
    from odedeploy.frontends.loading import Loaded
    from odedeploy.profiling import Profile


DOUBTED = 8
"""Inputs on which an export looks whether the model as written answers like its solution."""


def capture(
    model: nn.Module,
    inputs: Any,
    *,
    static: Collection[str] = (),
    replan: bool = False,
    noise: str | None = None,
) -> OdeGraph:
    """The ODE graph of ``model``, no solver chosen yet; the model is left as it was.

    ``inputs`` is a tensor or array, a tuple of them in the order of forward's arguments, or a dict
    by their names; the first axis is the batch except for the names in ``static``. ``replan``
    treats calls of fixed-step methods as ODEs. ``noise`` says what becomes of noise that the model
    draws: ``"fixed"``, one seeded draw for all samples, or ``"input"``, inputs ``noise_0`` ….

    Raises CaptureRefused for a model that cannot be exported, naming the place of the solve.
    """
    from odedeploy import frontends
    from odedeploy.frontends.loading import named_inputs

    return frontends.capture(model, named_inputs(model, inputs), static, replan, noise)


def capture_field(
    f: Callable[..., Any], x: Any, t0: float, t1: float, **condition: Any
) -> OdeGraph:
    """The ODE graph of dx/dt = f(t, x, **condition) from ``t0`` to ``t1``; its output is x at t1.

    ``x`` is a tensor or array of states, the batch first. Conditions are tensors or arrays with
    the batch first, or single numbers such as a guidance scale; all stay run-time inputs.

    Raises CaptureRefused for a field that cannot be exported.
    """
    from odedeploy import frontends
    from odedeploy.frontends.loading import array

    arrays = {name: array(name, value) for name, value in condition.items()}
    return frontends.capture_field(f, array("x", x), t0, t1, arrays)


def plan(
    graph: OdeGraph,
    inputs: Any,
    tol: float | None = None,
    *,
    spec: ExportSpec | None = None,
    progress: Progress = silent,
) -> Planned:
    """The cheapest plan of ``graph`` whose error is certified to keep ``tol``.

    ``inputs`` are calibration inputs like those of ``capture``, 600 or more for a promise of
    0.99 coverage at 0.95 confidence. ``spec`` holds further wishes. The result carries the best
    plan reached when none keeps the tolerance; ``export`` then refuses it.
    """
    from odedeploy.frontends import live
    from odedeploy.frontends.loading import named_inputs

    spec = spec or ExportSpec(tol=1e-2)
    spec = spec if tol is None else replace(spec, tol=tol)
    evaluator = live(graph)
    splits = split(named_inputs(evaluator.model, inputs), spec, evaluator.static)
    watch = Stopwatch()
    with watch("reference"):
        reference = solve_reference(
            evaluator, graph.sites, splits.inputs, metrics.of(spec), progress, splits.static
        )
    with watch("check"):
        warnings = _doubts(graph, spec, splits, reference)
    planned = plan_splits(graph, evaluator, splits, spec, reference, progress)
    return replace(
        planned, seconds={**planned.seconds, **watch.seconds}, warnings=planned.warnings + warnings
    )


def _doubts(
    graph: OdeGraph, spec: ExportSpec, splits: Splits, reference: Reference
) -> tuple[str, ...]:
    """What is to be said where a solve that gets a new plan was written too coarsely."""
    if all(site.kept is not None for site in graph.sites):
        return ()
    from odedeploy.checking import doubt
    from odedeploy.frontends import live

    few = take(splits.inputs, np.arange(min(DOUBTED, len(splits.fit))), splits.static)
    said = doubt(live(graph), reference, few, spec.replan and not spec.best_effort)
    return (said,) if said else ()


def foreseen(loaded: Loaded, spec: ExportSpec) -> str:
    """What the number of inputs will allow to promise, where it is less than asked; else nothing.

    Raises BadInput for inputs that cannot be split.
    """
    metric = metrics.of(spec)
    samples = len(split(loaded.inputs, spec, loaded.static).certify)
    if samples >= minimum_samples(metric.coverage, spec.confidence):
        return ""
    return promise(metric, samples, spec.confidence)


def export(
    graph: OdeGraph, planned: Planned, path: str | Path, progress: Progress = silent
) -> Manifest:
    """Write the artefact of a planned graph, verified in its runtime, and its manifest beside it.

    Raises FellShort, and writes nothing, when the tolerance or the verification is missed and the
    request did not ask for the best effort.
    """
    if not (planned.search.certified or planned.spec.best_effort):
        raise FellShort(planned.search.promise)
    return deliver(graph, planned, Path(path), progress)


def deploy(
    loaded: Loaded, spec: ExportSpec, path: str | Path, progress: Progress = silent
) -> Manifest:
    """Capture, plan, lower, verify and write in one go.

    For the target ``"auto"`` every usable target is tried, and the fastest is written, in its
    format; so is the format ``"auto"`` chosen.
    """
    several = candidates(spec) if spec.target == AUTO else []
    if several:
        spec = replace(spec, target=several[0].name, format=several[0].format)
    formats.check_form(spec.format, spec.form)
    check_target(spec)
    check_folder(Path(path))
    watch = Stopwatch()
    with watch("capture"):
        graph = captured(loaded, spec, progress)
    lowering.check_form(graph, spec.form)
    planned = plan(graph, loaded.inputs, spec=spec, progress=progress)
    planned = replace(planned, seconds={**watch.seconds, **planned.seconds})
    if not several or not planned.search.certified:
        return export(graph, planned, path, progress)
    return deliver_fastest(graph, planned, Path(path), several, progress)


def check_target(spec: ExportSpec) -> None:
    """Raises Unusable for a target that is not usable here, and BadInput for one that takes another
    format."""
    target = find_target(spec.target)
    if problem := usable(target):
        raise Unusable(problem)
    if target.format != spec.format and spec.target != ExportSpec.target:
        raise BadInput(
            f"Target {spec.target!r} runs {target.format}, not {spec.format}; name the file with "
            f"{formats.find(target.format).suffix}, or choose another target."
        )


def retarget(
    path: str | Path,
    spec: ExportSpec,
    output: str | Path,
    inputs: Any = None,
    progress: Progress = silent,
) -> Manifest:
    """Lower the ODE graph inside an exported ONNX file again, for another tolerance.

    Needs no PyTorch. ``inputs`` are calibration inputs, arrays by name or in order; by default the
    few golden inputs in the file, with the weaker promise that they support. Writes ``output``
    with its manifest beside it, as ``export`` does.

    Raises BadInput for a file without an ODE graph, and FellShort as ``export`` does.
    """
    from odedeploy.retargeting import planned_again

    check_folder(Path(output))
    formats.check_form(spec.format, spec.form)
    graph, planned = planned_again(Path(path), spec, inputs, progress)
    return export(graph, planned, output, progress)


def load_model(
    name: str, weights: Path | None = None, inputs: Path | None = None,
    static: Collection[str] = (),
) -> Loaded:
    """A reference model by name, or a person's own by ``file.py:callable`` or ``package:callable``.

    ``inputs`` is a file of calibration inputs, needed when the callable returns none. Raises
    UnknownName for a name that is neither, and BadInput for what cannot be built or read.
    """
    from odedeploy.frontends import loading

    address = _address(name)
    module, given = loading.load_model(address, weights)
    if inputs is not None:
        given = loading.named_inputs(module, read_inputs(inputs))
    if given is None:
        raise BadInput(
            f"{name} returns no example inputs; give them with --inputs FILE (.npz, .safetensors)."
        )
    if unknown := sorted(set(static) - set(given)):
        raise BadInput(f"--static names {', '.join(unknown)}; the inputs are {', '.join(given)}.")
    scalars = {key for key, array in given.items() if array.ndim == 0}
    fixed = frozenset(scalars.union(static))
    return loading.Loaded(name, module, given, fixed, address, weights, inputs)


def _address(name: str) -> str:
    from odedeploy.models import MODELS, address

    if name in MODELS:
        return address(name)
    if ":" not in name:
        raise UnknownName(
            "model", name, [*MODELS, "path/to/file.py:callable", "package.module:callable"]
        )
    return name


def verify(
    path: str | Path,
    against: Loaded | None = None,
    progress: Progress = silent,
    *,
    metric: str | None = None,
) -> VerifyReport:
    """Verify a file where it is now.

    Without ``against``, the golden inputs in its metadata must give their outputs. With a model,
    its inputs are solved by the reference and the file must keep the tolerance of its manifest on
    them, at the coverage and confidence it was certified for. The model is captured as it was for
    the file: with the same noise, static inputs and fixed-step calls. ``metric`` says where a
    metric of a person's own is found now.

    Raises BadInput for a file that odedeploy did not write.
    """
    return verified_again(Path(path), against, metric, progress)


def check(
    model: nn.Module,
    inputs: Any,
    tol: float = 1e-2,
    *,
    static: Collection[str] = (),
    noise: str | None = None,
    progress: Progress = silent,
) -> Check:
    """Is ``model`` an ODE, or only the solver it was trained with?

    Takes what ``capture`` takes. ``tol`` is the relative error of the outputs up to which the model
    as written and its solution count as the same. Raises as ``capture`` does, and BadInput for a
    model that solves no ODE.
    """
    from odedeploy.checking import check as examined
    from odedeploy.frontends import recorded
    from odedeploy.frontends.loading import named_inputs

    evaluator, sites = recorded(model, named_inputs(model, inputs), static, noise)
    given = named_inputs(evaluator.model, inputs)
    return examined(evaluator, sites, given, tol, progress)


def inspect(path: str | Path) -> dict[str, Any]:
    """What a file says of itself: its manifest as plain JSON values."""
    path = Path(path)
    manifest = read_manifest(formats.from_path(path).metadata(path))
    if manifest is None:
        raise BadInput(f"{path} has no manifest; export it with odedeploy.")
    return replace(manifest, bytes=path.stat().st_size, sha256=files.sha256(path)).to_json()


def profile(
    models: Sequence[Loaded | Path] | Loaded | Path = (),
    tols: Sequence[float] = (1e-1, 1e-2, 1e-3),
    targets: Sequence[str] = ("cpu", "cpu-1t"),
    folder: str | Path = "profile",
    *,
    precisions: Sequence[str] = ("fp32",),
    forms: Sequence[str] = ("unrolled",),
    batches: Sequence[int] = (),
    spec: ExportSpec | None = None,
    seconds: float = 40.0,
    timeout: float = 120.0,
    resume: bool = False,
    merge: Sequence[str | Path] = (),
    hosts: Sequence[str] = (),
    meters: Sequence[str] = (),
    progress: Progress = silent,
) -> Profile:
    """Every tolerance on every target, measured, with the model in PyTorch beside it.

    A model is exported once per tolerance, precision and form into ``folder``; a file is measured
    as it is, and everything at each of ``batches``. Writes the profile there as JSON, CSV, PNG, SVG
    and HTML. A tolerance that no plan keeps costs its own row. ``resume`` goes on with a sweep of
    the same request that was stopped. ``hosts`` are measured over ssh, and ``merge`` are results
    of kits; without models they join the profile that ``folder`` holds. ``meters`` are CSV files of
    power meters, ``[DEVICE=]FILE`` each.

    Raises UnknownName and BadInput for wishes that cannot be, and where nothing could be exported,
    what kept the first file from it.
    """
    from odedeploy.profiling.devices import joined
    from odedeploy.profiling.meter import named
    from odedeploy.tradeoff import Request, sweep

    several = models if isinstance(models, Sequence) and not isinstance(models, str) else [models]
    paths, metered = [Path(file) for file in merge], named(meters)
    if not several:
        return joined(Path(folder), paths, metered)
    given = [Path(model) if isinstance(model, str) else model for model in several]
    request = Request(
        given, tols, targets, precisions, forms, batches, spec or ExportSpec(tol=1.0), seconds,
        timeout,
    )  # fmt: skip
    return sweep(
        request, Path(folder), progress, resume=resume, merge=paths, hosts=hosts, metered=metered
    )


def kit(paths: Sequence[str | Path], output: str | Path) -> Path:
    """A zip of exported ONNX files, golden data and a script that measures them on another device.

    Raises BadInput for a file that is not an ONNX file of odedeploy.
    """
    from odedeploy.profiling.packing import pack

    return pack([Path(path) for path in paths], Path(output))
