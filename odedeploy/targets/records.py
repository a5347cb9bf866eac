"""What an artefact is measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from odedeploy import cgroups
from odedeploy.errors import BadInput


@dataclass(frozen=True)
class Target:
    """A runtime with its execution providers, threads, precision and batch, under one name.

    ``format`` is the file format that the runtime reads, and opens with ``options``. ``runtime``
    is a name that ``odedeploy.profiling.openers`` knows, or the address
    ``package.module:callable`` of an opener of one's own. ``providers`` are those of onnxruntime,
    asked for in this order, and no other may take their place. ``threads`` is None for all cores
    that the process may use. ``batch`` is the number of samples in one inference. ``packages`` are
    the distributions that the runtime needs and ``extra`` what installs them; with ``compiler``
    it needs a C++ compiler, too. ``variant`` names an arithmetic other than that of the format on
    the CPU: a file for it is verified on this target, and has a name of its own. ``quota`` is the
    processor time that all threads of a measured process may use in a second, in CPUs, None for as
    much as there is.

    Raises BadInput for fewer than one thread, a batch below one or a quota below 0.01.
    """

    name: str
    format: str
    runtime: str
    providers: tuple[str, ...]
    threads: int | None
    batch: int
    precision: str
    description: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    packages: tuple[str, ...] = ()
    extra: str = ""
    compiler: bool = False
    variant: str = ""
    quota: float | None = None

    def __post_init__(self) -> None:
        for what, value in (("threads", self.threads), ("batch", self.batch)):
            if value is not None and value < 1:
                raise BadInput(f"Target {self.name!r} needs {what} of at least 1, got {value}.")
        if self.quota is not None and not cgroups.LEAST <= self.quota < float("inf"):
            raise BadInput(
                f"Target {self.name!r} needs a quota of at least {cgroups.LEAST:g} CPUs, got "
                f"{self.quota}."
            )

    @property
    def opening(self) -> dict[str, Any]:
        """The options with which its format opens a file for it, as plain JSON values."""
        providers = {"providers": list(self.providers)} if self.providers else {}
        return {**providers, **self.options}

    def opening_of(self, format: str) -> dict[str, Any]:
        """``opening`` for a file of ``format``; nothing where that is another."""
        return self.opening if format == self.format else {}
