"""The command line: parse, build the request, call the library, print.

Every command has ``--json``: one JSON object on stdout, everything else on stderr. Exit codes:
0 done, 1 fell short, 2 bad input or usage, 3 not usable here, 4 a runtime crashed, 130 stopped.
"""

from __future__ import annotations

from typing import Annotated

import typer

from odedeploy import __version__
from odedeploy.cli import (
    check,
    doctor,
    export,
    inspection,
    kit,
    lists,
    profiling,
    retarget,
    train,
    verify,
)
from odedeploy.cli.failures import Commands

__all__ = ["app"]

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"odedeploy {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_version, help="Show the version."),
    ] = False,
) -> None:
    """Unroll trained Neural ODEs to certified fixed-step solves and export them as one file."""


app.command("export")(export.export)
app.command("profile")(profiling.profile)
app.command("kit")(kit.kit)
app.command("verify")(verify.verify)
app.command("check")(check.check)
app.command("retarget")(retarget.retarget)
app.command("inspect")(inspection.inspect)
app.command("train")(train.train)
app.command("models")(lists.models)
app.command("solvers")(lists.solvers)
app.command("targets")(lists.targets)
app.command("doctor")(doctor.doctor)
