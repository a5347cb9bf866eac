"""A file verified again, where it is now: against its golden outputs, or against its model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from odedeploy import formats, metrics
from odedeploy.delivery import artefact_errors, captured, margin
from odedeploy.errors import BadInput
from odedeploy.fixed_batch import InBatches
from odedeploy.graph import Inputs, OdeGraph, delivered_specs, input_specs, output_specs
from odedeploy.manifest import Manifest
from odedeploy.planned import Progress
from odedeploy.program import Plan
from odedeploy.reference import Reference, batch_size
from odedeploy.reference import solve as solve_reference
from odedeploy.runtime import BATCH, read_manifest
from odedeploy.search import judge, shortfall
from odedeploy.spec import ExportSpec
from odedeploy.step_control import verified
from odedeploy.verification import Verification, check_golden, verify

if TYPE_CHECKING:
    from odedeploy.frontends.loading import Loaded


@dataclass(frozen=True)
class VerifyReport:
    """Outcome of verifying a file again: against its golden outputs, or against its model.

    ``error`` is the bound (or the largest error) reached and ``tolerance`` what it is held to.
    """

    file: str
    against: str
    passed: bool
    error: float
    tolerance: float
    samples: int
    failures: tuple[str, ...]
    promise: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def verified_again(
    path: Path, against: Loaded | None, metric: str | None, progress: Progress
) -> VerifyReport:
    """What ``odedeploy.verify`` reports; raises as it does."""
    runner = formats.from_path(path).open(path)
    manifest = read_manifest(runner.metadata)
    if manifest is None:
        raise BadInput(f"{path} has no manifest; export it with odedeploy.")
    if against is None:
        golden = check_golden(runner)
        worst = float(golden.errors.max())
        failures = () if golden else (f"{path}: {golden}.",)
        return VerifyReport(str(path), "golden outputs", bool(golden), worst, golden.tolerance,
                            len(golden.errors), failures, manifest.promise)  # fmt: skip
    return _against(runner, manifest, path, against, metric or manifest.metric, progress)


def _against(
    runner: formats.Runner,
    manifest: Manifest,
    path: Path,
    loaded: Loaded,
    metric: str,
    progress: Progress,
) -> VerifyReport:
    from odedeploy.frontends import live
    from odedeploy.frontends.loading import named_inputs

    asked = {"static": (), "noise": None, "replan": False, **manifest.extra.get("capture", {})}
    spec = ExportSpec(tol=manifest.tol, tols=manifest.tols, metric=metric,
                      confidence=manifest.error.confidence, replan=asked["replan"],
                      noise=asked["noise"])  # fmt: skip
    judged = replace(metrics.of(spec), coverage=manifest.error.coverage)
    static = loaded.static.union(asked["static"]).intersection(loaded.inputs)
    graph = captured(replace(loaded, static=static), spec, progress)
    evaluator = live(graph)
    inputs = named_inputs(evaluator.model, loaded.inputs)
    plan = Plan.from_json(manifest.plan["program"])
    if BATCH in manifest.extra:
        runner = InBatches(
            runner, int(manifest.extra[BATCH]), input_specs(graph.model),
            delivered_specs(graph.model, plan),
        )
    reference = solve_reference(
        evaluator, graph.sites, inputs, judged, progress, evaluator.static
    )
    rows = np.arange(batch_size(inputs, evaluator.static))
    verification = _judged(runner, manifest, graph, plan, inputs, reference, rows)
    certificate = judge(verification.error, judged.limit, judged.coverage, spec.confidence)
    reached = certificate.rate if judged.counts else certificate.bound
    failures = list(verification.failures)
    if not certificate.passed:
        failures.append(
            f"The file {shortfall(judged, certificate)}; export it again with inputs like these."
        )
    return VerifyReport(str(path), loaded.name, not failures, reached, spec.tol,
                        certificate.samples, tuple(failures), manifest.promise)  # fmt: skip


def _judged(
    runner: formats.Runner,
    manifest: Manifest,
    graph: OdeGraph,
    plan: Plan,
    inputs: Inputs,
    reference: Reference,
    rows: np.ndarray,
) -> Verification:
    """The file against its model on all ``inputs``, which are ``rows`` of the reference."""
    if plan.control is not None:
        return verified(
            runner, plan.control, inputs, reference, rows, tol=manifest.tol,
            expected_inputs=input_specs(graph.model), expected_outputs=output_specs(graph.model),
        )  # fmt: skip
    assert graph.evaluator is not None
    outcome = graph.evaluator.run(plan, inputs, "float32")
    return verify(
        runner, inputs, outcome.outputs, reference.outcome.outputs,
        expected_inputs=input_specs(graph.model),
        expected_outputs=delivered_specs(graph.model, plan), monitors=outcome.monitors,
        tol=manifest.tol,
        export_tol=max(runner.roundoff, margin(manifest.quantisation_error)),
        metric=artefact_errors(reference, outcome, rows),
    )  # fmt: skip
