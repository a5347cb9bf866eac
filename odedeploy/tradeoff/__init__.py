"""The trade-off of models: every tolerance, precision and form on every target and batch size."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from odedeploy import files, formats, profiling
from odedeploy.errors import BadInput, FellShort, OdeDeployError, Unusable
from odedeploy.frontends.loading import Loaded
from odedeploy.manifest import ErrorReport, Manifest
from odedeploy.planned import Progress
from odedeploy.profiling import (
    Baseline,
    Entry,
    Journal,
    Percentiles,
    Profile,
    Row,
    devices,
    meter,
    ssh,
)
from odedeploy.profiling.queries import cut
from odedeploy.profiling.records import model_of
from odedeploy.runtime import batch_symbol, read_golden, read_manifest
from odedeploy.spec import ExportSpec
from odedeploy.tradeoff.clock import Clock
from odedeploy.tradeoff.request import Cell, Request, command, file_name, stems
from odedeploy.tradeoff.workshop import Workshop

__all__ = ["JOURNAL", "Request", "sweep"]

JOURNAL = "sweep.jsonl"


@dataclass
class _Work:
    """What a sweep has gathered so far; ``missed`` are rows of artefacts that there are none of,
    and ``problem`` is what stood in the way of the first."""

    request: Request
    folder: Path
    journal: Journal
    clock: Clock
    entries: list[Entry] = field(default_factory=list)
    baselines: list[Baseline] = field(default_factory=list)
    missed: list[Row] = field(default_factory=list)
    problem: OdeDeployError | None = None


def sweep(
    request: Request,
    folder: Path,
    progress: Progress,
    *,
    resume: bool = False,
    merge: Sequence[Path] = (),
    hosts: Sequence[str] = (),
    metered: Mapping[str, Path] = devices.NO_METERS,
) -> Profile:
    """Export everything that is asked for into ``folder``, measure it, write the profile there.

    ``<folder>/sweep.jsonl`` tells how far it is; ``resume`` goes on from there. ``hosts`` are
    measured over ssh, ``merge`` are results of kits, and ``metered`` the files of power meters by
    their devices.

    Raises BadInput for a folder that cannot be made or that holds a sweep of another request, and
    where nothing could be exported, what kept the first artefact from it.
    """
    for host in hosts:
        ssh.Host.parse(host)
    _make(folder)
    for file in metered.values():
        meter.read(file)
    elsewhere = [devices.read(path, metered) for path in merge]
    begun = Journal.resume if resume else Journal.begin
    with begun(folder / JOURNAL, request.to_json()) as journal:
        clock = Clock(progress, request.spec.budget, request.seconds)
        work = _Work(request, folder, journal, clock)
        _plan_time(work)
        for model, stem in zip(request.models, stems(request.models), strict=True):
            if isinstance(model, Path):
                _add_file(work, model)
            else:
                _add_model(work, model, stem)
        if not work.entries:
            journal.drop()
            raise work.problem or FellShort("There is nothing to measure.")
        measured = profiling.profile(
            work.entries, work.baselines, request.seconds, clock.measuring(),
            timeout=request.timeout, seed=request.spec.seed, journal=journal,
            meter=metered.get(meter.HERE),
        )  # fmt: skip
        asked = {**_asked(request), **measured.asked}
        result = replace(measured, rows=(*measured.rows, *work.missed), asked=asked)
        for host in hosts:
            elsewhere.append(
                ssh.measured(host, work.entries, request.seconds, folder, journal, metered)
            )
        result = devices.warned(devices.merged(result, elsewhere), metered)
        profiling.write(result, folder)
        journal.add("finished")
    return result


def _asked(request: Request) -> dict[str, Any]:
    """The request as the report tells it."""
    said = request.to_json()
    models = [model.get("model") or model["file"] for model in said.pop("models")]
    del said["machine"]
    return {"models": models, **said}


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder} cannot be made ({error.strerror}); choose another.") from error


def _plan_time(work: _Work) -> None:
    """How many steps of each kind there will be at the most."""
    models = sum(not isinstance(model, Path) for model in work.request.models)
    cells = [cell.spec for cell in work.request.cells() if cell.spec] if models else []
    left = work.clock.left
    left["prepare"], left["measure"] = models, 1
    left["plan"] = models * len({(s.tol, s.precision, s.form) for s in cells})
    left["deliver"] = models * len({(s.tol, s.precision, s.form, s.format) for s in cells})


def _add_model(work: _Work, model: Loaded, stem: str) -> None:
    workshop = Workshop(model, work.request.strictest, work.folder, work.clock)
    made: dict[str, Manifest | OdeDeployError | None] = {}
    for cell in work.request.cells():
        if cell.spec is None:
            _miss(work, model, cell, Unusable(cell.problem))
            continue
        name = file_name(stem, cell.spec, cell.target.variant)
        if name not in made:
            try:
                made[name] = _made(work, workshop, cell, name)
            except OdeDeployError as error:
                made[name] = error
                if all(line["file"] != name for line in work.journal.of("missed")):
                    kind = type(error).__name__
                    work.journal.add("missed", file=name, error=kind, reason=str(error))
        outcome = made[name]
        if isinstance(outcome, OdeDeployError):
            _miss(work, model, cell, outcome)
        elif outcome is not None:
            _enter(work, model, workshop, cell, name, outcome)
    if any(entry.model == model.name for entry in work.entries):
        _add_baselines(work, model, workshop)


def _made(work: _Work, workshop: Workshop, cell: Cell, name: str) -> Manifest | None:
    """The artefact's manifest, from an earlier run where it still stands there; None for a
    tolerance that changes nothing, since there is no solve.

    Raises what kept it from being made, in an earlier run, too.
    """
    path = work.folder / name
    for line in work.journal.of("artefact", "missed", "same"):
        if line["file"] != name:
            continue
        if line["kind"] == "missed":
            raise _error(line["error"])(line["reason"])
        if line["kind"] == "same":
            return None
        if _whole(path, line["sha256"]):
            work.clock.skip("plan")
            work.clock.skip("deliver")
            return _beside(path)
    assert cell.spec is not None
    if not workshop.graph.sites and cell.tol != min(work.request.tols):
        work.journal.add("same", file=name)
        return None
    spec = cell.spec if workshop.graph.sites else _unsolved(cell.spec)
    manifest = workshop.delivered(spec, path)
    work.journal.add("artefact", file=name, sha256=manifest.sha256)
    return manifest


def _whole(path: Path, sha256: str) -> bool:
    """Whether artefact and manifest are still there as they were written."""
    beside = path.with_name(path.name + ".json")
    return path.is_file() and beside.is_file() and files.sha256(path) == sha256


def _unsolved(spec: ExportSpec) -> ExportSpec:
    """A request for a network without a solve, to which no wish for a solver applies."""
    return replace(spec, solver="auto", nfe=None)


def _beside(path: Path) -> Manifest:
    """The manifest that lies beside an artefact."""
    text = path.with_name(path.name + ".json").read_text(encoding="utf-8")
    return Manifest.from_json(json.loads(text))


def _error(name: str) -> type[OdeDeployError]:
    family = {cls.__name__: cls for cls in (BadInput, FellShort, Unusable)}
    return family.get(name, BadInput)


def _miss(work: _Work, model: Loaded, cell: Cell, error: OdeDeployError) -> None:
    work.problem = work.problem or error
    spec = work.request.spec
    work.missed.append(
        Row(
            model=model.name, tol=cell.tol, target=cell.target.name, precision=cell.precision,
            format=cell.target.format, form=cell.form, solver=spec.solver, nfe=spec.nfe,
            error=None, latency_ms=Percentiles(), reason=str(error), batch=cell.target.batch,
            status="unusable" if isinstance(error, Unusable) else "failed",
        )  # fmt: skip
    )


def _enter(
    work: _Work, model: Loaded, workshop: Workshop, cell: Cell, name: str, manifest: Manifest
) -> None:
    """The artefact on its target, at every batch size."""
    assert cell.spec is not None
    spec = replace(cell.spec, precision=manifest.precision)
    spec = _unsolved(spec) if manifest.plan["solver"] == "none" else spec
    said = command(model, spec, Path(name))
    for target in work.request.chosen:
        if target.name == cell.target.name:
            asked = workshop.queries(target.batch)
            path = work.folder / name
            work.entries.append(Entry.of(model.name, path, manifest, target, asked, said))


def _add_baselines(work: _Work, model: Loaded, workshop: Workshop) -> None:
    """The model as its author wrote it, at every batch size."""
    known = (line for line in work.journal.of("baseline") if line["model"] == model.name)
    line: dict[str, Any] | None = next(known, None)
    if line is None:
        report, evaluations = workshop.as_written
        line = {"solver": workshop.solver, "nfe": evaluations, "error": vars(report)}
        work.journal.add("baseline", model=model.name, **line)
    for batch in dict.fromkeys(target.batch for target in work.request.chosen):
        work.baselines.append(
            Baseline(
                model=model.name, address=model.address, solver=line["solver"],
                queries=workshop.queries(batch), weights=model.weights, nfe=line["nfe"],
                error=ErrorReport(**line["error"]), batch=batch,
            )  # fmt: skip
        )


def _add_file(work: _Work, path: Path) -> None:
    runner = formats.from_path(path).open(path)
    manifest: Manifest | None = read_manifest(runner.metadata)
    if manifest is None:
        raise BadInput(f"{path} has no manifest; export it with odedeploy.")
    golden = read_golden(runner.metadata)
    if golden is None:
        raise BadInput(f"{path} holds no inputs to run; export it with odedeploy.")
    symbol = batch_symbol(runner.inputs)
    static = frozenset(s.name for s in runner.inputs if symbol not in s.shape[:1])
    for target in work.request.chosen:
        asked = cut(golden.inputs, static, target.batch)
        work.entries.append(Entry.of(model_of(path, manifest), path, manifest, target, asked))
