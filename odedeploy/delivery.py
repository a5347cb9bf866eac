"""From a planned graph to a file: lowered, verified in its runtime, written with its manifest."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from odedeploy import files, formats, metrics
from odedeploy.account import manifest_of
from odedeploy.errors import BadInput, FellShort
from odedeploy.fixed_batch import InBatches
from odedeploy.formats import Built, Convertible, Format, Runner
from odedeploy.graph import (
    OdeGraph,
    Outcome,
    delivered_specs,
    input_specs,
    output_specs,
)
from odedeploy.manifest import Manifest
from odedeploy.planned import Planned, Progress, Stopwatch, silent
from odedeploy.reference import SHARE, Reference
from odedeploy.roofline import work_of
from odedeploy.runtime import BATCH, CONTROL, GOLDEN, MANIFEST, STEPS, Arrays
from odedeploy.search import Certificate, judge, shortfall, split
from odedeploy.search.alarm import Watched, watch_plan
from odedeploy.spec import ExportSpec
from odedeploy.step_control import Asked, cost, trials, verified
from odedeploy.step_counts import measured
from odedeploy.targets import find as find_target
from odedeploy.tolerance import Tolerance, worst_error
from odedeploy.verification import GOLDEN_INPUTS, Verification, golden, verify

if TYPE_CHECKING:
    from odedeploy.frontends.loading import Loaded


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


@dataclass(frozen=True)
class Draft:
    """A verified artefact that is not written yet; ``keepsake`` are its golden inputs, as text."""

    artefact: Built
    manifest: Manifest
    keepsake: str

    def write(self, path: Path) -> Manifest:
        """Write ``path``, and its manifest as ``<path>.json``."""
        return _written(
            self.artefact, path, replace(self.manifest, file=path.name), self.keepsake
        )


def deliver(graph: OdeGraph, planned: Planned, path: Path, progress: Progress = silent) -> Manifest:
    """Lower, verify and write ``path``, and its manifest as ``<path>.json``; raises as ``drafted``
    does, and then writes nothing."""
    return drafted(graph, planned, path, progress).write(path)


def drafted(graph: OdeGraph, planned: Planned, path: Path, progress: Progress = silent) -> Draft:
    """Lower and verify what is to become ``path``.

    The artefact is verified on the certification inputs, in its runtime, from a file; what is
    written is that file with the manifest and golden inputs added to its metadata.

    Raises FellShort when the artefact does not match the plan or misses the tolerance on the
    certification inputs and the request did not ask for the best effort.
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
        runner = opened(form, draft, graph, planned)
        verification = _verified(graph, planned, runner)
        extra = {} if verification.failures else _of_form(graph, planned, runner)
        keepsake, limits = _keepsake(planned, runner, verification), dict(runner.limits)
    progress("verify", 1, 1)
    metric = metrics.of(spec)
    certificate = judge(
        verification.error, (1 - SHARE) * metric.limit, metric.coverage, spec.confidence
    )
    failures = _failures(verification, certificate, planned)
    if failures and not spec.best_effort:
        raise FellShort(failures[0])
    manifest = manifest_of(
        graph, planned, path, verification, certificate, failures,
        {**planned.seconds, **watch.seconds},
    )
    manifest.extra.update(extra, **({"limits": limits} if limits else {}))
    manifest.plan.update(_work(graph, planned, artefact))
    if isinstance(runner, InBatches):
        held = runner.runner
        manifest = replace(manifest, inputs=held.inputs, outputs=held.outputs)
        manifest.extra[BATCH] = runner.size
    return Draft(artefact, manifest, keepsake)


def built(form: Format, graph: OdeGraph, planned: Planned) -> Built:
    """The artefact of a planned graph, in the precision that it was planned for."""
    plan, spec = planned.plan, planned.spec
    graph = replace(graph, batch=spec.batch)
    if planned.transform is None:
        return form.build(graph, plan, spec.form)
    from odedeploy.lowering import lower

    assert isinstance(form, Convertible)
    return form.converted(planned.transform(lower(graph, plan, spec.form), plan), graph, plan)


def opened(form: Format, path: Path, graph: OdeGraph, planned: Planned) -> Runner:
    """The file in its runtime; one for a single batch size takes any number of inputs here."""
    plan, spec = planned.plan, planned.spec
    runner = form.open(path, options=find_target(spec.target).opening_of(form.name))
    if spec.batch is None:
        return runner
    specs = input_specs(graph.model), delivered_specs(graph.model, plan)
    return InBatches(runner, spec.batch, *specs)


def _keepsake(planned: Planned, runner: Runner, verification: Verification) -> str:
    """Golden inputs and outputs to travel in the file, as text.

    The inputs are of the certification inputs where there are enough. Another machine may answer
    as far apart as two runs in this precision; with step-size control it may take other steps.
    """
    splits, plan = planned.splits, planned.plan
    inputs = splits.certify.inputs if len(splits.certify) >= GOLDEN_INPUTS else splits.inputs
    coarse = verification.quantisation_error
    apart = max(10 * Tolerance.FLOAT32, margin(None if coarse is None else float(coarse.max())))
    answering: Runner = runner
    if plan.control is not None:
        answering = Asked(runner)
        apart = max(apart, 2 * float(verification.error.max()))
    if isinstance(runner, InBatches):
        answering = runner.runner
        inputs = runner.rows(inputs, np.arange(runner.size) % len(splits.certify))
    monitors = () if plan.alarm is None else (plan.alarm.output,)
    return golden(answering, inputs, tolerance=apart, monitors=monitors).pack()


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
        export_tol=max(runner.roundoff, margin(None if moved is None else float(np.max(moved)))),
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
    metric = metrics.of(spec)
    if spec.form != "loop" or metric.of_states:
        return {}
    judged = replace(planned.reference, metric=metric)

    def errors(outputs: Arrays) -> np.ndarray:
        return judged.errors(Outcome(dict(outputs), {}), certify.rows)

    judge_by = partial(
        judge, tol=metric.limit, coverage=metric.coverage, confidence=spec.confidence
    )
    plan = planned.search.plan
    return {STEPS: measured(runner, plan, graph.sites, certify.inputs, errors, judge_by)}


def _work(graph: OdeGraph, planned: Planned, artefact: Built) -> dict[str, Any]:
    """What one inference does, for estimates; nothing for a plan whose work is not a number."""
    from odedeploy.formats.onnx import BuiltOnnx
    from odedeploy.lowering import lower
    from odedeploy.passes import clean

    spec = planned.spec
    if graph.trace is not None or (spec.form, spec.precision) != ("unrolled", "fp32"):
        return {}
    import onnx_ir as ir

    held = artefact.model if isinstance(artefact, BuiltOnnx) else None
    found = work_of(ir.to_proto(held or clean(lower(graph, planned.plan, "unrolled"))))
    return {} if found is None else {"work": found.to_json()}


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
