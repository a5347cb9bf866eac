"""From a planned graph to a file: lowered, verified in its runtime, written with its manifest."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from odedeploy import files, formats, metrics
from odedeploy._version import __version__
from odedeploy.errors import BadInput, FellShort
from odedeploy.formats import Built, Format, Runner
from odedeploy.graph import (
    Inputs,
    OdeGraph,
    Outcome,
    delivered_specs,
    input_specs,
    output_specs,
)
from odedeploy.manifest import ErrorReport, Manifest
from odedeploy.metrics import Metric
from odedeploy.program import Plan
from odedeploy.reference import SHARE, Reference
from odedeploy.runtime import CONTROL, GOLDEN, MANIFEST, STEPS, Arrays
from odedeploy.search import Certificate, Search, Splits, judge, promise, shortfall, split
from odedeploy.search.alarm import Watched, watch_plan
from odedeploy.spec import ExportSpec
from odedeploy.step_control import ROWS, Asked, cost, trials, verified
from odedeploy.step_counts import measured
from odedeploy.tolerance import Tolerance, worst_error
from odedeploy.verification import GOLDEN_INPUTS, Verification, golden, verify

if TYPE_CHECKING:
    from odedeploy.frontends.loading import Loaded
    from odedeploy.precision import Transform

PACKAGES = ("numpy", "torch", "onnx", "onnx-ir", "onnxruntime", "torchdiffeq")

Progress = Callable[[str, int, int], None]
"""Called with a stage, the work done and the work in all."""


def silent(stage: str, done: int, total: int) -> None:
    """Reports no progress."""


@dataclass(frozen=True)
class Planned:
    """A plan with everything that its certificate rests on, and the seconds of each phase.

    ``transform`` writes its artefact in the precision of ``spec``, None in fp32. ``notes`` are
    fields for the manifest's ``extra``, ``warnings`` sentences for its readers. ``watched`` is
    the plan with its alarm.
    """

    spec: ExportSpec
    splits: Splits
    reference: Reference
    search: Search
    seconds: Mapping[str, float]
    transform: Transform | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    watched: Watched | None = None

    @property
    def plan(self) -> Plan:
        """What is delivered."""
        return self.search.plan if self.watched is None else self.watched.plan


class Stopwatch:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self.seconds[phase] = round(self.seconds.get(phase, 0.0) + spent, 3)


def captured(loaded: Loaded, spec: ExportSpec, progress: Progress = silent) -> OdeGraph:
    """The ODE graph of a loaded model, after a look at its inputs, which takes no time.

    Raises BadInput for inputs that cannot be split and for a state that an alarm cannot watch, and
    CaptureRefused for the model.
    """
    from odedeploy import frontends

    split(loaded.inputs, spec, loaded.static)
    progress("capture", 0, 1)
    graph = frontends.capture(loaded.module, loaded.inputs, loaded.static, spec.replan, spec.noise)
    if spec.alarm:
        frontends.live(graph).state_axes()
    progress("capture", 1, 1)
    return graph


def deliver(graph: OdeGraph, planned: Planned, path: Path, progress: Progress = silent) -> Manifest:
    """Lower, verify and write ``path``, and its manifest as ``<path>.json``.

    The artefact is verified on the certification inputs, in its runtime, from a file; what is
    written is that file with the manifest and golden inputs added to its metadata.

    Raises FellShort, and writes nothing, when the artefact does not match the plan or misses the
    tolerance on the certification inputs and the request did not ask for the best effort.
    """
    spec, watch = planned.spec, Stopwatch()
    form = formats.find(spec.format)
    check_folder(path)
    if spec.alarm:
        with watch("alarm"):
            planned = replace(planned, watched=_watched(graph, planned, progress))
    progress("lower", 0, 1)
    with watch("lower"):
        artefact = built(form, graph, planned)
    progress("lower", 1, 1)
    with watch("verify"), tempfile.TemporaryDirectory(prefix="odedeploy-") as folder:
        progress("verify", 0, 1)
        draft = Path(folder) / f"draft{form.suffix}"
        artefact.write(draft, {})
        runner = form.open(draft)
        verification = _verified(graph, planned, runner)
        extra = {} if verification.failures else _of_form(graph, planned, runner)
        coarse = verification.quantisation_error
        apart = max(10 * Tolerance.FLOAT32, margin(None if coarse is None else float(coarse.max())))
        alarm = () if planned.plan.alarm is None else (planned.plan.alarm.output,)
        kept = _kept_inputs(planned.splits)
        answering: Runner = runner
        if planned.plan.control is not None:
            answering = Asked(runner)
            apart = max(apart, 2 * float(verification.error.max()))
        keepsake = golden(answering, kept, tolerance=apart, monitors=alarm).pack()
    progress("verify", 1, 1)
    metric = metrics.of(spec)
    certificate = judge(
        verification.error, (1 - SHARE) * metric.limit, metric.coverage, spec.confidence
    )
    failures = _failures(verification, certificate, planned)
    if failures and not spec.best_effort:
        raise FellShort(failures[0])
    manifest = _manifest(
        graph, planned, path, verification, certificate, failures,
        {**planned.seconds, **watch.seconds},
    )
    manifest.extra.update(extra)
    return _written(artefact, path, manifest, keepsake)


def built(form: Format, graph: OdeGraph, planned: Planned) -> Built:
    """The artefact of a planned graph, in the precision that it was planned for."""
    plan, spec = planned.plan, planned.spec
    if planned.transform is None:
        return form.build(graph, plan, spec.form)
    from odedeploy.formats.onnx import BuiltOnnx
    from odedeploy.lowering import lower

    return BuiltOnnx(planned.transform(lower(graph, plan, spec.form), plan), {})


def _kept_inputs(splits: Splits) -> Inputs:
    """Inputs that may travel in the file: of the certification inputs where there are enough."""
    return splits.certify.inputs if len(splits.certify) >= GOLDEN_INPUTS else splits.inputs


def _watched(graph: OdeGraph, planned: Planned, progress: Progress) -> Watched:
    from odedeploy.frontends import live

    return watch_plan(
        live(graph), graph, planned.search.plan, planned.splits, planned.reference, planned.spec,
        progress,
    )  # fmt: skip


def _verified(graph: OdeGraph, planned: Planned, runner: Runner) -> Verification:
    """The artefact against its plan, run in PyTorch or, below fp32, in its own precision."""
    certify, plan = planned.splits.certify, planned.plan
    if plan.control is not None:
        return verified(
            runner, plan.control, certify.inputs,
            replace(planned.reference, metric=metrics.of(planned.spec)), certify.rows,
            expected_inputs=input_specs(graph.model),
            expected_outputs=output_specs(graph.model), tol=planned.spec.tol,
        )  # fmt: skip
    assert graph.evaluator is not None
    outcome = graph.evaluator.run(plan, certify.inputs, "float32")
    expected, moved = _in_precision(graph, planned, outcome)
    whole = planned.reference.outcome.outputs
    reference = {name: array[certify.rows] for name, array in whole.items()}
    judged = replace(planned.reference, metric=metrics.of(planned.spec))
    verification = verify(
        runner,
        certify.inputs,
        expected.outputs,
        reference,
        expected_inputs=input_specs(graph.model),
        expected_outputs=delivered_specs(graph.model, plan),
        tol=planned.spec.tol,
        export_tol=margin(None if moved is None else float(np.max(moved))),
        metric=artefact_errors(judged, expected, certify.rows),
        monitors=outcome.monitors,
    )
    if moved is None:
        return verification
    discretisation = worst_error(outcome.outputs, reference)
    return replace(
        verification, discretisation_error=discretisation, quantisation_error=moved
    )


def _in_precision(
    graph: OdeGraph, planned: Planned, single: Outcome
) -> tuple[Outcome, np.ndarray | None]:
    """The plan in its precision on the certification inputs, and how far that is from fp32."""
    if planned.transform is None:
        return single, None
    from odedeploy.evaluator import OnnxEvaluator

    evaluator = OnnxEvaluator(graph, planned.transform)
    found = evaluator.run(planned.search.plan, planned.splits.certify.inputs, "float32")
    return found, worst_error(found.outputs, single.outputs)


def margin(quantisation_error: float | None) -> float:
    """How far two runs of one artefact may lie apart.

    Round-off in fp32. On a coarser grid a value at the edge of two levels may fall to either side,
    so there the bound is what the precision moves at all; the certificate covers the whole.
    """
    return max(Tolerance.FLOAT32, 2 * (quantisation_error or 0.0))


def artefact_errors(
    reference: Reference, planned: Outcome, rows: np.ndarray
) -> Callable[[Arrays], np.ndarray]:
    """Outputs of an artefact on ``rows`` of the inputs → errors by the metric of ``reference``.

    ``planned`` is what its plan gives in PyTorch. An artefact has no states; a metric that needs
    them is taken of the plan's, and the artefact's relative error against the plan is added.
    """

    def errors(outputs: Arrays) -> np.ndarray:
        found = reference.errors(Outcome(dict(outputs), planned.states), rows)
        if reference.metric.of_states:
            found = found + worst_error(outputs, planned.outputs)
        return found

    return errors


def _of_form(graph: OdeGraph, planned: Planned, runner: Runner) -> dict[str, Any]:
    """What the manifest says of this form alone."""
    spec, certify, control = planned.spec, planned.splits.certify, planned.plan.control
    if control is not None:
        spent = cost(trials(Asked(runner), control, certify.inputs))
        return {CONTROL: {**control.to_json(), "evaluations": spent}}
    if spec.form != "loop":
        return {}
    outputs = planned.reference.outcome.outputs
    reference = {name: array[certify.rows] for name, array in outputs.items()}
    plan = planned.search.plan
    return {STEPS: measured(runner, plan, graph.sites, certify.inputs, reference, spec)}


def _failures(
    verification: Verification, certificate: Certificate, planned: Planned
) -> tuple[str, ...]:
    failures = list(verification.failures)
    if not planned.search.certified:
        failures.append(planned.search.promise)
    elif not certificate.passed:
        failures.append(
            f"The artefact {shortfall(metrics.of(planned.spec), certificate)}; ask for a wider one."
        )
    return tuple(failures)


def _manifest(
    graph: OdeGraph,
    planned: Planned,
    path: Path,
    verification: Verification,
    certificate: Certificate,
    failures: tuple[str, ...],
    seconds: dict[str, float],
) -> Manifest:
    spec, found, reference = planned.spec, planned.search, planned.reference
    kept = not failures
    alarm = {} if planned.watched is None else {"alarm": planned.watched.to_json()}
    metric = metrics.of(spec)
    promised = promise(metric, certificate.samples, spec.confidence)
    extra, moved = _extra(graph, spec), verification.quantisation_error
    if "times_as_input" in extra:
        promised += " Times are an input of the file, and these inputs share one vector of times."
    control = planned.plan.control
    if control is not None and not control.per_sample:
        promised += (
            " The promise is of inputs run one by one: a batch shares its steps, and in batches of "
            f"{min(ROWS, certificate.samples)} the certification inputs kept it as well."
        )
    return Manifest(
        file=path.name,
        format=spec.format,
        form=spec.form,
        precision=spec.precision,
        target=spec.target,
        tol=spec.tol,
        metric=metric.name,
        kept=kept,
        promise=promised if kept else f"Nothing is promised: {failures[0]}",
        plan={"kind": found.best.kind, **_described(planned)},
        error=report(metric, certificate),
        discretisation_error=float(np.max(verification.discretisation_error)),
        export_error=float(np.max(verification.export_error)),
        reference={
            "method": reference.method,
            "self_check": reference.self_check,
            "of": _target(graph),
            "evaluations": reference.evaluations,
        },
        candidates=[
            {
                "solver": c.solver, "kind": c.kind, "nfe": c.evaluations, "error": c.error,
                **({} if c.plan.control is None else {"tolerance": c.plan.control.tolerance}),
            }
            for c in found.candidates
        ],
        seconds=seconds,
        inputs=input_specs(graph.model),
        outputs=delivered_specs(graph.model, planned.plan),
        tols=dict(spec.tols),
        extra={**extra, **_verified_of(metric), **planned.notes, **alarm},
        versions=_versions(),
        seed=spec.seed,
        warnings=(*planned.warnings, *failures),
        quantisation_error=None if moved is None else float(np.max(moved)),
    )


def _extra(graph: OdeGraph, spec: ExportSpec) -> dict[str, Any]:
    """How the model was captured, and the solves whose times are an input of the file."""
    static = sorted(getattr(graph.evaluator, "static", ()))
    moving = [site.name for site in graph.sites if site.interval is not None]
    return {
        "route": graph.route,
        "capture": {"static": static, "noise": spec.noise, "replan": spec.replan},
        **({"times_as_input": moving} if moving else {}),
    }


def _target(graph: OdeGraph) -> str:
    """What errors are taken against: the solution, the solves as written, or some of both."""
    kept = [site.kept is not None for site in graph.sites]
    if not any(kept):
        return "the solution of the ODE"
    written = "the map of the fixed-step solves as written"
    return written if all(kept) else f"{written}, the solution of the other ODEs"


def report(metric: Metric, certificate: Certificate) -> ErrorReport:
    """A certificate for the manifest, its bound in the unit of the tolerance."""
    return ErrorReport(
        bound=certificate.rate if metric.counts else certificate.bound,
        max=certificate.max,
        median=certificate.median,
        coverage=certificate.coverage,
        confidence=certificate.confidence,
        samples=certificate.samples,
        violations=certificate.violations,
    )


def _verified_of(metric: Metric) -> dict[str, str]:
    if not metric.of_states:
        return {}
    return {
        "verified": "The artefact gives no states: its error is that of the plan's states in "
        "PyTorch plus the relative error of its outputs against the plan's."
    }


def _described(planned: Planned) -> dict[str, Any]:
    """``describe`` of what is delivered; with step-size control, evaluations are the mean."""
    said, best = describe(planned.plan), planned.search.best
    if planned.plan.control is None:
        return said
    return {**said, "solver": best.solver, "nfe": best.evaluations}


def describe(plan: Plan) -> dict[str, Any]:
    """A plan for a reader: solver, evaluations and times of each site, and the program itself."""
    return {
        "solver": ", ".join(dict.fromkeys(solve.solver for solve in plan.solves)) or "none",
        "nfe": plan.evaluations,
        "sites": [
            {
                "name": solve.site,
                "solver": solve.solver,
                "nfe": solve.program.evaluations,
                "t0": solve.grid.times[0],
                "t1": solve.grid.times[-1],
                "times": list(solve.grid.times),
            }
            for solve in plan.solves
        ],
        "program": plan.to_json(),
    }


def _written(built: Built, path: Path, manifest: Manifest, keepsake: str) -> Manifest:
    inside = {k: v for k, v in manifest.to_json().items() if k not in ("bytes", "sha256")}
    built.write(path, {MANIFEST: json.dumps(inside), GOLDEN: keepsake})
    full = replace(manifest, bytes=path.stat().st_size, sha256=files.sha256(path))
    beside = path.with_name(path.name + ".json")
    files.replace(beside, (json.dumps(full.to_json(), indent=1) + "\n").encode())
    return full


def check_folder(path: Path) -> None:
    """Raises BadInput when ``path`` cannot become a file; found out before the work, not after."""
    if path.is_dir():
        raise BadInput(f"{path} is a folder; give the name of a file.")
    if not path.parent.is_dir():
        raise BadInput(f"The folder {path.parent} does not exist; create it first.")
    if not os.access(path.parent, os.W_OK):
        raise BadInput(f"The folder {path.parent} is read-only; choose another.")


def _versions() -> dict[str, str]:
    found = {"odedeploy": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
