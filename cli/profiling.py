"""``odedeploy profile``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from odedeploy.cli import output
from odedeploy.cli.options import (
    AllowDistilled,
    BestEffort,
    Budget,
    Confidence,
    Coverage,
    Inputs,
    Json,
    Replan,
    Samples,
    Seed,
    Static,
    Weights,
)
from odedeploy.errors import Crashed, FellShort, OdeDeployError, Unusable
from odedeploy.spec import RUNGS, ExportSpec

if TYPE_CHECKING:
    from odedeploy.profiling import Profile, Row

TOLERANCES = [1e-1, 1e-2, 1e-3]
TARGETS = ["cpu", "cpu-1t"]
PRECISIONS = ["fp32"]
FORMS = ["unrolled"]


def profile(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL|FILE]...", help="Models, or exported files.", show_default=False
        ),
    ] = None,
    tol: Annotated[
        list[float], typer.Option(help="A tolerance to export for; may be repeated.")
    ] = TOLERANCES,
    target: Annotated[
        list[str], typer.Option(metavar="NAME", help="A target to measure on; may be repeated.")
    ] = TARGETS,
    folder: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the files go.")
    ] = Path("profile"),
    weights: Weights = None,
    inputs: Inputs = None,
    static: Static = None,
    form: Annotated[
        list[str],
        typer.Option(metavar="NAME", help="unrolled, loop or adaptive; may be repeated."),
    ] = FORMS,
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Samples in one inference; may be repeated.", show_default=False),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time of the measured rounds.")] = 40.0,
    timeout: Annotated[
        float, typer.Option(help="Seconds that a runtime may take for one answer.")
    ] = 120.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep that was stopped in the folder.")
    ] = False,
    merge: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A kit's result.json to show as well; may be repeated."),
    ] = None,
    ssh: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]USER@HOST[:PORT]",
            help="A device to measure on as well, over ssh; may be repeated.",
        ),
    ] = None,
    meter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[DEVICE=]FILE",
            help="A power meter's CSV of time and watts, of this machine or a device; may be "
            "repeated.",
        ),
    ] = None,
    coverage: Coverage = 0.99,
    confidence: Confidence = 0.95,
    precision: Annotated[
        list[str], typer.Option(metavar="NAME", help="An arithmetic; may be repeated.")
    ] = PRECISIONS,
    solver: Annotated[
        str,
        typer.Option(metavar="NAME", help="auto, classical, learned, or a solver by its name."),
    ] = "auto",
    budget: Budget = None,
    allow_distilled: AllowDistilled = False,
    samples: Samples = None,
    seed: Seed = 0,
    replan: Replan = False,
    best_effort: BestEffort = False,
    as_json: Json = False,
) -> None:
    """Measure accuracy against latency, on every target.

    Every tolerance, precision and form is exported and measured at every batch size, with the
    PyTorch model beside them. A sweep that was stopped goes on with --resume.

    Writes the exported files, profile.json, profile.csv, pareto.png, pareto.svg and report.html.
    """  # fmt: skip
    spec = ExportSpec(
        tol=min(tol, default=1.0), coverage=coverage, confidence=confidence, samples=samples,
        seed=seed, solver=solver, budget=budget, allow_distilled=allow_distilled, replan=replan,
        best_effort=best_effort,
    )  # fmt: skip
    with output.working() as progress:
        progress("loading", 0, 0)
        from odedeploy import api, formats, solvers, targets

        for name in target:
            targets.find(name)
        if solver not in RUNGS:
            solvers.find(solver)
        given = [
            Path(name) if Path(name).suffix in formats.SUFFIXES
            else api.load_model(name, weights, inputs, tuple(static or ()))
            for name in models or ()
        ]  # fmt: skip
        result = api.profile(
            given, tol, target, folder, precisions=precision, forms=form, batches=batch or (),
            spec=spec, seconds=seconds, timeout=timeout, resume=resume, merge=merge or (),
            hosts=ssh or (), meters=meter or (), progress=progress,
        )  # fmt: skip
        from odedeploy.profiling import FILES
    _check_measured(result)
    paths = {name: str(folder / name) for name in FILES}
    if as_json:
        output.emit({**result.to_json(), "files": paths})
        return
    from odedeploy.profiling.records import place

    output.show(_table(result))
    for row in (*result.rows, *result.baselines):
        if row.reason:
            output.warn(f"{row.model} at {row.tol} on {place(row)}: {row.reason}")
    output.show(f"\nPlot {paths['pareto.png']} and .svg, report {paths['report.html']}, numbers "
                f"{paths['profile.json']} and {paths['profile.csv']}")  # fmt: skip


def _check_measured(result: Profile) -> None:
    """A profile in which nothing could be measured is a failure, of the kind of its first row."""
    if any(row.measured for row in result.rows):
        return
    kinds: dict[str, type[OdeDeployError]] = {"unusable": Unusable, "crashed": Crashed}
    first = next((row for row in result.rows if row.reason), result.rows[0])
    raise kinds.get(first.status, FellShort)(first.reason)


def _table(result: Profile) -> Any:
    columns = ("", "model", "tol>", "target", "batch>", "precision", "solver", "NFE>", "error>",
               "p50 ms>", "p90 ms>", "p99 ms>", "per second>", "peak MB>", "file>", "")  # fmt: skip
    rows = [_cells(row, "★" if row.pareto else "") for row in result.rows]
    rows += [_cells(row, "") for row in result.baselines]
    return output.table("★ nothing here is both faster and more accurate", columns, rows)


def _cells(row: Row, mark: str) -> tuple[Any, ...]:
    from odedeploy.profiling.records import place, short

    latency = row.latency_ms
    kind = row.precision if row.form == "unrolled" else f"{row.precision} {row.form}"
    return (mark, short(row.model), row.tol, place(row), row.batch, kind, row.solver, row.nfe,
            row.error, latency.p50, latency.p90, latency.p99, row.throughput, row.peak_memory_mb,
            output.size(row.bytes), "" if row.measured else row.status)  # fmt: skip
