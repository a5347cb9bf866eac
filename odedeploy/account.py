"""What a manifest says of a planned graph and of its artefact."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from odedeploy import formats, metrics
from odedeploy._version import __version__
from odedeploy.graph import OdeGraph, delivered_specs, input_specs
from odedeploy.manifest import ErrorReport, Manifest
from odedeploy.metrics import Metric
from odedeploy.planned import Planned
from odedeploy.program import Plan
from odedeploy.search import Candidate, Certificate, promise
from odedeploy.spec import ExportSpec
from odedeploy.step_control import ROWS
from odedeploy.verification import Verification

PACKAGES = ("numpy", "torch", "onnx", "onnx-ir", "onnxruntime", "torchdiffeq")


def manifest_of(
    graph: OdeGraph,
    planned: Planned,
    path: Path,
    verification: Verification,
    certificate: Certificate,
    failures: tuple[str, ...],
    seconds: dict[str, float],
) -> Manifest:
    """The manifest of an artefact that has no size yet; ``failures`` break its promise."""
    spec, found, reference = planned.spec, planned.search, planned.reference
    kept = not failures
    alarm = {} if planned.watched is None else {"alarm": planned.watched.to_json()}
    metric = metrics.of(spec)
    extra, moved = _extra(graph, spec), verification.quantisation_error
    promised = _promised(planned, certificate.samples, "times_as_input" in extra)
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
        candidates=[_tried(candidate) for candidate in found.candidates],
        seconds=seconds,
        inputs=input_specs(graph.model),
        outputs=delivered_specs(graph.model, planned.plan),
        tols=dict(spec.tols),
        extra={**extra, **_verified_of(metric), **planned.notes, **alarm},
        versions=_versions(formats.find(spec.format).packages),
        seed=spec.seed,
        warnings=(*planned.warnings, *failures),
        quantisation_error=None if moved is None else float(np.max(moved)),
    )


def _promised(planned: Planned, samples: int, times_as_input: bool) -> str:
    """The promise of a kept certificate, with what it takes for granted."""
    said = promise(metrics.of(planned.spec), samples, planned.spec.confidence)
    if times_as_input:
        said += " Times are an input of the file, and these inputs share one vector of times."
    control = planned.plan.control
    if control is not None and not control.per_sample:
        said += (
            " The promise is of inputs run one by one: a batch shares its steps, and in batches of "
            f"{min(ROWS, samples)} the certification inputs kept it as well."
        )
    return said


def _tried(candidate: Candidate) -> dict[str, Any]:
    control = candidate.plan.control
    return {
        "solver": candidate.solver,
        "kind": candidate.kind,
        "nfe": candidate.evaluations,
        "error": candidate.error,
        **({} if control is None else {"tolerance": control.tolerance}),
    }


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


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {"odedeploy": __version__, "python": platform.python_version()}
    for package in dict.fromkeys((*PACKAGES, *packages)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
