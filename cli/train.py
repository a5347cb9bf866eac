"""``odedeploy train``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from odedeploy.cli import output
from odedeploy.cli.options import Json, Seed

if TYPE_CHECKING:
    from odedeploy.models.tasks import Progress

GRADIENT_ERROR = 0.05
"""What --auto-tol allows between a gradient and that of tight solves, relative."""


def train(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A model of `odedeploy models`.", show_default=False),
    ],
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the data set; without it, it is fetched."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Where the files go: runs/NAME."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Stretch or shrink the model's own recipe to this length.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="rtol = atol of the solves, in place of the recipe's.")
    ] = None,
    adjoint_tolerance: Annotated[
        float | None, typer.Option(help="The same of the backward solves alone.")
    ] = None,
    auto_tol: Annotated[
        bool,
        typer.Option(
            "--auto-tol",
            help="Every epoch, the loosest tolerances whose gradient is within 5 % of a tight one.",
        ),
    ] = False,
    checkpoints: Annotated[
        int,
        typer.Option(
            metavar="K", help="Keep K states and solve again from them instead of backwards."
        ),
    ] = 0,
    regularise: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=WEIGHT",
            help="Make it cheap to solve: kinetic, jacobian, local-error, end-time; repeatable.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over instead of resuming the checkpoint.")
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a reference model by its own recipe.

    Writes a checkpoint, the weights and the model card. A run that was stopped goes on where it
    was. Under torchrun, as in `torchrun --nproc-per-node 2 -m odedeploy train NAME`, the processes
    share each batch.
    """
    folder = folder or Path("runs") / name
    with _reporting() as report:
        from odedeploy import models

        result = models.train(
            name, folder=folder, data=data, seed=seed, epochs=epochs, regularise=regularise or (),
            tolerance=tolerance, adjoint_tolerance=adjoint_tolerance,
            gradient_error=GRADIENT_ERROR if auto_tol else 0.0, checkpoints=checkpoints,
            device=device, fresh=fresh, report=report,
        )  # fmt: skip
    if result is None:
        return
    if as_json:
        files = {key: str(getattr(result, key)) for key in ("checkpoint", "weights", "card_file")}
        output.emit({"name": name, **files, "card": result.card})
        return
    measured = result.card["test"] or result.card["held_out"]
    on = "test" if result.card["test"] else "held-out"
    output.show(
        f"{name}: {_metrics(measured)} on the {on} data, {result.card['parameters']:,} parameters.",
        f"Wrote {result.weights}, {result.card_file} and {result.checkpoint}.",
    )
    if name in models.MODELS:
        output.show(
            f"Next: odedeploy export {name} --weights {result.weights} --tol 1e-2 -o {name}.onnx"
        )


@contextmanager
def _reporting() -> Iterator[Callable[[Progress], None]]:
    """A progress bar on a terminal, otherwise a line a report, both on stderr."""
    with output.working() as progress:
        progress("loading", 0, 0)
        from odedeploy.models.lock import LOCKED

        live = sys.stderr.isatty()

        def report(at: Progress) -> None:
            if live:
                progress(_line(at), at.step, at.steps)
            if not live or at.held_out is not None:
                output.warn(f"step {at.step} of {at.steps}, {_line(at)}, {at.seconds:.0f} s")
            if at.moved is not None and at.moved > LOCKED:
                output.warn(
                    f"The model is on its way to being locked to its solver: half the steps move "
                    f"its outputs by {at.moved:.0%}. Train with more steps, or regularise it."
                )

        yield report


def _line(at: Progress) -> str:
    parts = [f"epoch {at.epoch} of {at.epochs}", f"loss {at.loss:.4f}", _metrics(at.metrics)]
    if at.held_out is not None:
        parts.append(f"held out: {_metrics(at.held_out)}")
    if at.forward_evaluations is not None and at.backward_evaluations is not None:
        counts = f"{at.forward_evaluations:.0f} forward, {at.backward_evaluations:.0f} backward"
        parts.append(f"evaluations {counts}")
    if at.moved is not None:
        parts.append(f"half the steps move the outputs by {at.moved:.1%}")
    if at.tolerance is not None:
        parts.append(f"at {at.tolerance:.0e} and {at.adjoint_tolerance:.0e}")
    return ", ".join(part for part in parts if part)


def _metrics(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())
