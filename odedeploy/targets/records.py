"""What an artefact is measured on."""

from __future__ import annotations

from dataclasses import dataclass

from odedeploy.errors import BadInput


@dataclass(frozen=True)
class Target:
    """A runtime with its execution providers, threads, precision and batch, under one name.

    ``format`` is the file format that the runtime reads. ``runtime`` is a name that
    ``odedeploy.profiling.openers`` knows, or the address ``package.module:callable`` of an opener
    of one's own. ``providers`` are asked for in this order and no other may take their place.
    ``threads`` is None for all cores that the process may use. ``batch`` is the number of
    samples in one inference.

    Raises BadInput for fewer than one thread or a batch below one.
    """

    name: str
    format: str
    runtime: str
    providers: tuple[str, ...]
    threads: int | None
    batch: int
    precision: str
    description: str

    def __post_init__(self) -> None:
        for what, value in (("threads", self.threads), ("batch", self.batch)):
            if value is not None and value < 1:
                raise BadInput(f"Target {self.name!r} needs {what} of at least 1, got {value}.")
