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
FILES = ("profile.json", "profile.csv", "pareto.png", "report.html")


def profile(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL|FILE...", help="Models, or exported files.", show_default=False
        ),
    ],
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
    seconds: Annotated[float, typer.Option(help="Time of the measured rounds.")] = 40.0,
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

    Every tolerance is exported and measured, with the adaptive PyTorch solve beside them.

    Writes the exported files, profile.json, profile.csv, pareto.png and report.html.
    """  # fmt: skip
    specs = [
        ExportSpec(tol=each, precision=kind, coverage=coverage, confidence=confidence,
                   samples=samples, seed=seed, solver=solver, budget=budget,
                   allow_distilled=allow_distilled, replan=replan, best_effort=best_effort)
        for each in tol for kind in precision
    ]  # fmt: skip
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
            for name in models
        ]  # fmt: skip
        result = api.profile(
            given, tol, target, folder, precisions=precision, spec=specs[0], seconds=seconds,
            progress=progress,
        )  # fmt: skip
    _check_measured(result)
    paths = {name: str(folder / name) for name in FILES}
    if as_json:
        output.emit({**result.to_json(), "files": paths})
        return
    output.show(_table(result))
    for row in (*result.rows, *result.baselines):
        if row.reason:
            output.warn(f"{row.model} at {row.tol} on {row.target}: {row.reason}")
    output.show(f"\nPlot {paths['pareto.png']}, report {paths['report.html']}, numbers "
                f"{paths['profile.json']} and {paths['profile.csv']}")  # fmt: skip


def _check_measured(result: Profile) -> None:
    """A profile in which nothing could be measured is a failure, of the kind of its first row."""
    if any(row.measured for row in result.rows):
        return
    kinds: dict[str, type[OdeDeployError]] = {"unusable": Unusable, "crashed": Crashed}
    first = result.rows[0]
    raise kinds.get(first.status, FellShort)(first.reason)


def _table(result: Profile) -> Any:
    columns = ("", "model", "tol>", "target", "solver", "NFE>", "error>", "p50 ms>", "p90 ms>",
               "p99 ms>", "per second>", "peak MB>", "file>", "")  # fmt: skip
    rows = [_cells(row, "★" if row.pareto else "") for row in result.rows]
    rows += [_cells(row, "") for row in result.baselines]
    return output.table("★ nothing here is both faster and more accurate", columns, rows)


def _cells(row: Row, mark: str) -> tuple[Any, ...]:
    latency = row.latency_ms
    return (mark, row.model, row.tol, row.target, row.solver, row.nfe, row.error, latency.p50,
            latency.p90, latency.p99, row.throughput, row.peak_memory_mb, output.size(row.bytes),
            "" if row.measured else row.status)  # fmt: skip
