"""``odedeploy check``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from odedeploy.cli import output
from odedeploy.cli.options import Inputs, Json, Model, Noise, Static, Weights

if TYPE_CHECKING:
    from odedeploy.checking import Finding

MARKS = {"good": "✓", "note": "!", "bad": "✗", "unknown": "?"}


def check(
    model: Model,
    tol: Annotated[
        float, typer.Option(help="Largest relative difference between two solves taken as equal.")
    ] = 1e-2,
    weights: Weights = None,
    inputs: Inputs = None,
    static: Static = None,
    noise: Noise = None,
    as_json: Json = False,
) -> None:
    """Tell whether MODEL is an ODE, or only the solver it was trained with.

    Ends with 1 unless it is an ODE.
    """
    with output.working() as progress:
        progress("loading", 0, 0)
        from odedeploy import api

        loaded = api.load_model(model, weights, inputs, tuple(static or ()))
        found = api.check(
            loaded.module, loaded.inputs, tol, static=loaded.static, noise=noise, progress=progress
        )
    if as_json:
        output.emit({"model": model, **found.to_json()})
    else:
        rows = [_cells(finding) for finding in found.findings]
        output.show(
            output.table("", ("", "check", f"on {found.samples} inputs"), rows),
            f"\n{model} is {found.verdict}. {found.words}",
        )
    if not found.genuine:
        raise typer.Exit(1)


def _cells(finding: Finding) -> tuple[str, str, str]:
    return MARKS[finding.outcome], finding.name, finding.words
