"""``odedeploy retarget``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from odedeploy.cli import output
from odedeploy.cli.options import (
    Batch,
    BestEffort,
    Confidence,
    Coverage,
    File,
    Inputs,
    Json,
    PerSample,
    Samples,
    Seed,
)
from odedeploy.spec import ExportSpec


def retarget(
    path: File,
    tol: Annotated[float, typer.Option(help="Largest relative error of an input.")],
    to: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The file to write.",
                     show_default="beside FILE, with the tolerance in its name"),
    ] = None,
    inputs: Inputs = None,
    form: Annotated[str, typer.Option(metavar="NAME", help="How the solve is written.")] = (
        "unrolled"
    ),
    solver: Annotated[
        str, typer.Option(metavar="NAME", help="A solver of `odedeploy solvers`, or auto.")
    ] = "auto",
    per_sample: PerSample = False,
    batch: Batch = None,
    nfe: Annotated[
        int | None, typer.Option(help="Exactly this many evaluations of the vector field.")
    ] = None,
    coverage: Coverage = 0.99,
    confidence: Confidence = 0.95,
    samples: Samples = None,
    seed: Seed = 0,
    best_effort: BestEffort = False,
    as_json: Json = False,
) -> None:
    """Write an exported file again for another tolerance, without PyTorch.

    The ODE graph inside FILE gets a new plan, certified on --inputs. Without them the few golden
    inputs in FILE serve, and the promise is as weak as so few inputs make it.

    Nothing is written when no plan keeps the tolerance, unless --best-effort is given.
    """  # fmt: skip
    spec = ExportSpec(
        tol=tol, form=form, solver=solver, nfe=nfe, coverage=coverage, confidence=confidence,
        samples=samples, seed=seed, best_effort=best_effort, per_sample=per_sample, batch=batch,
    )  # fmt: skip
    to = to or path.with_name(f"{path.stem}-{tol:g}{path.suffix}")
    with output.working() as progress:
        progress("loading", 0, 0)
        from odedeploy import api, solvers
        from odedeploy.input_files import read_inputs

        if solver != "auto":
            solvers.find(solver)
        given = None if inputs is None else read_inputs(inputs)
        manifest = api.retarget(path, spec, to, given, progress)
    for warning in manifest.warnings:
        output.warn(warning)
    if as_json:
        output.emit(manifest.to_json())
        return
    from odedeploy.cli import summary

    output.show(*summary.of(manifest), f"\nWrote {to} and {to}.json.")
