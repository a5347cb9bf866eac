"""Options that several commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
BestEffort = Annotated[
    bool, typer.Option("--best-effort", help="Write the best there is when it falls short.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
