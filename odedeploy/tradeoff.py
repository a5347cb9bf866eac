"""The trade-off of a model: every tolerance on every target, beside its adaptive PyTorch solve."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from odedeploy import formats, metrics, profiling
from odedeploy.delivery import captured, deliver
from odedeploy.errors import BadInput, FellShort, Unusable
from odedeploy.frontends import live
from odedeploy.frontends.loading import Loaded
from odedeploy.graph import Inputs, OdeGraph
from odedeploy.manifest import ErrorReport, Manifest
from odedeploy.planned import Progress
from odedeploy.planning import plan_splits
from odedeploy.profiling import Baseline, Entry, Percentiles, Profile, Query, Row
from odedeploy.reference import Reference
from odedeploy.reference import solve as solve_reference
from odedeploy.runtime import batch_symbol, read_golden, read_manifest
from odedeploy.search import Splits, split
from odedeploy.spec import ExportSpec
from odedeploy.targets import Target
from odedeploy.targets import find as find_target

QUERIES = 16
"""Inputs that the measured inferences go through in turn."""

BASELINE_INPUTS = 64
"""Inputs on which the error and the evaluations of the adaptive solve are taken."""


@dataclass
class _Work:
    """What a sweep has gathered so far; ``missed`` are rows of tolerances that no plan keeps."""

    entries: list[Entry]
    missed: list[Row]
    baseline: Baseline | None = None


def sweep(
    models: Sequence[Loaded | Path],
    tols: Sequence[float],
    targets: Sequence[str],
    folder: Path,
    spec: ExportSpec,
    seconds: float,
    progress: Progress,
    precisions: Sequence[str] = ("fp32",),
) -> Profile:
    """Export each model at each tolerance and precision into ``folder``, measure all, write the
    profile there.

    Files among ``models`` are measured as they are. Raises UnknownName for a target that no table
    holds, and BadInput for a folder that cannot be made or for nothing to measure.
    """
    chosen = [find_target(name) for name in targets]
    specs = [
        replace(spec, tol=tol, precision=precision)
        for precision in precisions
        for tol in sorted(tols, reverse=True)
    ]
    if not chosen or not models or not (specs or all(isinstance(m, Path) for m in models)):
        raise BadInput("A profile needs a model or file, a tolerance and a target; give each.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder} cannot be made ({error.strerror}); choose another.") from error
    work = _Work([], [])
    for model in models:
        if isinstance(model, (str, Path)):
            _add_file(work, Path(model), chosen)
        else:
            _add_model(work, model, specs, chosen, folder, progress)
    if not work.entries:
        raise FellShort(work.missed[0].reason)
    measured = profiling.profile(
        work.entries, work.baseline, seconds,
        lambda share, text: progress(text, round(100 * share), 100), seed=spec.seed,
    )  # fmt: skip
    result = replace(measured, rows=(*measured.rows, *work.missed))
    profiling.write(result, folder)
    return result


def _add_model(
    work: _Work,
    model: Loaded,
    specs: Sequence[ExportSpec],
    targets: Sequence[Target],
    folder: Path,
    progress: Progress,
) -> None:
    graph = captured(model, specs[0], progress)
    evaluator = live(graph)
    strictest = min(specs, key=lambda spec: spec.tol)
    splits = split(model.inputs, strictest, model.static)
    reference = solve_reference(
        evaluator, graph.sites, splits.inputs, metrics.of(strictest), progress, splits.static
    )
    for target in targets:
        for spec in specs:
            asked = replace(spec, format=target.format, target=target.name)
            path = folder / _file_name(model.name, asked, target.variant)
            known = next((e for e in work.entries if e.file == path), None)
            if known is not None:
                work.entries.append(replace(known, target=target))
                continue
            try:
                planned = plan_splits(graph, evaluator, splits, asked, reference, progress)
                if not (planned.search.certified or spec.best_effort):
                    raise FellShort(planned.search.promise)
                manifest = deliver(graph, planned, path, progress)
            except (FellShort, Unusable) as error:
                work.missed.append(_missed(model.name, asked, str(error)))
                continue
            queries = _queries(splits.certify.inputs, splits.static, target.batch)
            work.entries.append(Entry.of(model.name, path, manifest, target, queries))
    if work.baseline is None:
        work.baseline = _baseline(model, graph, splits, reference)


def _baseline(
    model: Loaded,
    graph: OdeGraph,
    splits: Splits,
    reference: Reference,
) -> Baseline:
    """The model as its author wrote it, one input at a time."""
    certify = splits.certify
    rows = min(BASELINE_INPUTS, len(certify))
    inputs = {n: a if n in splits.static else a[:rows] for n, a in certify.inputs.items()}
    outcome, evaluations = live(graph).as_written(inputs)
    found = reference.errors(outcome, certify.rows[:rows])
    report = ErrorReport(None, float(found.max()), float(np.median(found)), 1.0, 0.0, rows)
    return Baseline(
        model=model.name,
        address=model.address,
        solver=", ".join(dict.fromkeys(site.method for site in graph.sites)) or "none",
        queries=_queries(certify.inputs, splits.static, 1),
        weights=model.weights,
        nfe=round(evaluations),
        error=report,
    )


def _add_file(work: _Work, path: Path, targets: Sequence[Target]) -> None:
    runner = formats.from_path(path).open(path)
    manifest: Manifest | None = read_manifest(runner.metadata)
    if manifest is None:
        raise BadInput(f"{path} has no manifest; export it with odedeploy.")
    golden = read_golden(runner.metadata)
    if golden is None:
        raise BadInput(f"{path} holds no inputs to run; export it with odedeploy.")
    symbol = batch_symbol(runner.inputs)
    static = frozenset(s.name for s in runner.inputs if symbol not in s.shape[:1])
    for target in targets:
        queries = _queries(golden.inputs, static, target.batch)
        work.entries.append(Entry.of(path.stem, path, manifest, target, queries))


def _queries(inputs: Inputs, static: frozenset[str], batch: int) -> list[Query]:
    """Inferences of ``batch`` inputs each, as many as there are inputs for."""
    rows = min((len(a) for name, a in inputs.items() if name not in static), default=1)
    count = max(1, min(QUERIES, rows // batch))
    return [
        {
            name: array if name in static else np.take(
                array, range(i * batch, (i + 1) * batch), 0, mode="wrap"
            )
            for name, array in inputs.items()
        }
        for i in range(count)
    ]  # fmt: skip


def _missed(model: str, spec: ExportSpec, reason: str) -> Row:
    return Row(
        model=model, tol=spec.tol, target=spec.target, precision=spec.precision,
        format=spec.format, form=spec.form, solver=spec.solver, nfe=spec.nfe, error=None,
        latency_ms=Percentiles(), status="failed", reason=reason,
    )  # fmt: skip


def _file_name(model: str, spec: ExportSpec, variant: str) -> str:
    kind = "".join(f"-{part}" for part in (spec.precision, variant) if part not in ("fp32", ""))
    return f"{_stem(model)}-{spec.tol:g}{kind}{formats.find(spec.format).suffix}"


def _stem(name: str) -> str:
    """A model's name as a file name: ``my_model.py:build`` → ``my_model``."""
    stem = name.split(":")[0].rsplit("/", 1)[-1].removesuffix(".py")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "model"


