"""How long a sweep has still to go, from how long its parts took so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from odedeploy.planned import Progress

GUESSES = {"prepare": 30.0, "plan": 30.0, "deliver": 5.0, "measure": 60.0}
"""Seconds of a step of which none is over yet."""


class Clock:
    """Counts the steps that are left, by kind, and tells ``progress`` the seconds done and in all.

    ``budget`` replaces the guess for a plan, and ``measuring`` that for measuring.
    """

    def __init__(self, progress: Progress, budget: float | None, measuring: float) -> None:
        self._progress, self._began = progress, time.monotonic()
        self._took: dict[str, list[float]] = {}
        self._guess = {**GUESSES, "measure": measuring}
        if budget is not None:
            self._guess["plan"] = budget
        self.left = dict.fromkeys(GUESSES, 0)

    @contextmanager
    def step(self, kind: str, what: str) -> Iterator[Progress]:
        """One step; yields a progress for what happens inside."""
        began = time.monotonic()

        def inside(stage: str, done: int, total: int) -> None:
            self._tell(f"{what}: {stage}", self._rest(kind, time.monotonic() - began))

        self._tell(what, self._rest(kind, 0.0))
        try:
            yield inside
        finally:
            self.skip(kind)
            self._took.setdefault(kind, []).append(time.monotonic() - began)

    def skip(self, kind: str) -> None:
        """A step that needs no time."""
        self.left[kind] = max(0, self.left[kind] - 1)

    def measuring(self) -> Callable[[float, str], None]:
        """A progress by shares for the last step of all."""
        began = time.monotonic()

        def tell(share: float, text: str) -> None:
            spent = time.monotonic() - began
            guess = max(0.0, self._guess["measure"] - spent)
            self._tell(text, guess if share < 0.05 else spent * (1 - share) / share)

        return tell

    def _rest(self, kind: str, spent: float) -> float:
        """Seconds left, ``spent`` of them in the present step."""
        rest = sum(self._expected(each) * count for each, count in self.left.items())
        return rest - min(spent, self._expected(kind))

    def _expected(self, kind: str) -> float:
        took = self._took.get(kind)
        return sum(took) / len(took) if took else self._guess[kind]

    def _tell(self, text: str, rest: float) -> None:
        done = time.monotonic() - self._began
        self._progress(text, round(done), max(1, round(done + max(rest, 0.0))))
