"""``odedeploy verify``."""

from __future__ import annotations

from typing import Annotated

import typer

from odedeploy.cli import output
from odedeploy.cli.options import File, Inputs, Json, Static, Weights
from odedeploy.errors import BadInput


def verify(
    path: File,
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model that FILE was exported from."),
    ] = None,
    weights: Weights = None,
    inputs: Inputs = None,
    static: Static = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION", help="Where the file's own metric is found on this machine."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check an exported file on this machine.

    Without MODEL its golden inputs must give their outputs. With MODEL the model's inputs are
    solved by the reference, and FILE must keep its tolerance on them.

    Ends with 1 when FILE falls short.
    """
    if against is None and (weights or inputs or static or metric):
        raise BadInput(
            "--weights, --inputs, --static and --metric belong to a model; give --against MODEL."
        )
    with output.working() as progress:
        progress("loading", 0, 0)
        from odedeploy import api

        loaded = against and api.load_model(against, weights, inputs, tuple(static or ()))
        report = api.verify(path, loaded or None, progress, metric=metric)
    if as_json:
        output.emit(report.to_json())
    else:
        verdict = "keeps" if report.passed else "falls short of"
        output.show(
            f"{path} {verdict} {report.tolerance:.3g} against {report.against}: "
            f"error {report.error:.3g} on {report.samples} inputs."
        )
    if not report.passed:
        for failure in report.failures:
            output.warn(failure)
        raise typer.Exit(1)
