"""A plan on its way to a file: what its certificate rests on, and how long everything took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from odedeploy.program import Plan
from odedeploy.reference import Reference
from odedeploy.search import Search, Splits
from odedeploy.search.alarm import Watched
from odedeploy.spec import ExportSpec

if TYPE_CHECKING:
    from odedeploy.precision import Transform

Progress = Callable[[str, int, int], None]
"""Called with a stage, the work done and the work in all."""


def silent(stage: str, done: int, total: int) -> None:
    """Reports no progress."""


@dataclass(frozen=True)
class Planned:
    """A plan with everything that its certificate rests on, and the seconds of each phase.

    ``transform`` writes its artefact in the precision of ``spec``, None in fp32. ``notes`` are
    fields for the manifest's ``extra``, ``warnings`` sentences for its readers. ``watched`` is
    the plan with its alarm.
    """

    spec: ExportSpec
    splits: Splits
    reference: Reference
    search: Search
    seconds: Mapping[str, float]
    transform: Transform | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    watched: Watched | None = None

    @property
    def plan(self) -> Plan:
        """What is delivered."""
        return self.search.plan if self.watched is None else self.watched.plan


class Stopwatch:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self.seconds[phase] = round(self.seconds.get(phase, 0.0) + spent, 3)
