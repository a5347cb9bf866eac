"""Options that several commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from odedeploy.errors import BadInput

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A reference model's name, path/to/file.py:callable or package.module:callable.",
        show_default=False,
    ),
]
File = Annotated[Path, typer.Argument(metavar="FILE", help="An exported file.", show_default=False)]
Weights = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Weights of the model: .safetensors or .pt."),
]
Inputs = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Inputs by the names or in the order of forward's arguments, batch first: "
        ".npz, .npy or .safetensors.",
    ),
]
Static = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="An input without a batch axis; may be repeated."),
]
Tol = Annotated[
    list[str],
    typer.Option(
        metavar="T|NAME=T",
        help="Largest error of an input; again with NAME= for a single output.",
        show_default=False,
    ),
]
Metric = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What the error is of: output, state, agreement, or module:function.",
    ),
]
Coverage = Annotated[float, typer.Option(help="Share of inputs that keep the tolerance.")]
Confidence = Annotated[float, typer.Option(help="How sure the promise is.")]
Samples = Annotated[
    int | None, typer.Option(help="Use at most this many of the inputs.", show_default=False)
]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]
Replan = Annotated[
    bool, typer.Option("--replan", help="Treat solves with fixed steps as ODEs, too.")
]
Noise = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What becomes of noise drawn in forward: fixed (one seeded draw) or input.",
        show_default=False,
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="Most time for the search; the best that is found by then is certified.",
        show_default=False,
    ),
]
AllowDistilled = Annotated[
    bool,
    typer.Option(
        "--allow-distilled", help="Let auto give each evaluation of the field its own biases."
    ),
]
Alarm = Annotated[
    bool,
    typer.Option("--alarm", help="Add an output above 1 for inputs unlike the calibration inputs."),
]
BestEffort = Annotated[
    bool, typer.Option("--best-effort", help="Write the best there is when it falls short.")
]
Batch = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Fix the batch to N inputs; by default any number.", show_default=False
    ),
]
PerSample = Annotated[
    bool,
    typer.Option("--per-sample", help="With --form adaptive: every sample has its own steps."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def tolerances(given: list[str]) -> tuple[float, dict[str, float]]:
    """The tolerance of everything, and those of single outputs by name, of ``--tol`` options.

    Raises BadInput unless exactly one of them is for everything.
    """
    parts = [text.rpartition("=")[::2] for text in given]
    try:
        numbers = [(name, float(value)) for name, value in parts]
    except ValueError as error:
        raise BadInput(
            f"--tol {' --tol '.join(given)}: {error}; give a number such as 1e-2, or NAME=1e-3."
        ) from error
    whole = [value for name, value in numbers if not name]
    if len(whole) != 1:
        raise BadInput(
            f"--tol {' --tol '.join(given)}: give exactly one tolerance without a name, which "
            "holds for every output that has none of its own."
        )
    return whole[0], {name: value for name, value in numbers if name}
