"""The fixed sequence of tests: which plans are put to certification, in which order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from odedeploy.search.certificate import Certificate
from odedeploy.search.measure import Candidate
from odedeploy.search.study import CLASSICAL, SAFE

ROOM = 0.8
"""Share of the target below which a classical plan that a fitted one beats is tested all the
same, before it."""

SEQUENCE = 8
"""Most plans that are put to the test of certification, beside one such classical plan."""

OVERFIT = 3.0
"""Largest ratio of the worst error in certification to that in ranking for a fitted plan."""


@dataclass(frozen=True)
class Tested:
    """A plan put to the test and how it did.

    ``excess`` is the largest ratio of its worst error to that in ranking that a fitted plan may
    have.
    """

    candidate: Candidate
    certificate: Certificate
    excess: float = OVERFIT

    @property
    def passed(self) -> bool:
        """Whether the certificate is passed, and a fitted plan does not do much worse than on the
        inputs that chose it.
        """
        worst = max(self.candidate.worst, 0.01 * self.certificate.limit)
        fitted = self.candidate.kind != CLASSICAL
        return self.certificate.passed and not (
            fitted and self.certificate.max > self.excess * worst
        )


def order(
    candidates: Iterable[Candidate], target: float, safe: float = SAFE
) -> list[Candidate]:
    """The plans to put to the test, from the safest to the cheapest.

    The Pareto front of price and error among those that keep the target, without classical plans
    whose largest error a cheaper fitted plan undercuts; of more than ``SEQUENCE`` the cheapest
    ones, and before them the first that is comfortably ``safe``, or the safest.
    The cheapest classical plan that keeps the target with some room (``ROOM``) on every input is
    among them even where a fitted plan beats it, so that what is chosen is never dearer than that.
    Every next plan has a strictly lower price.
    """
    able = [c for c in candidates if c.error <= target]
    front: list[Candidate] = []
    for candidate in sorted(able, key=lambda c: (c.price, c.error)):
        if front and (candidate.error >= front[-1].error or candidate.price == front[-1].price):
            continue
        front.append(candidate)
    fitted = [c for c in front if c.kind != CLASSICAL]
    front = [
        c
        for c in front
        if c.kind != CLASSICAL or all(f.price > c.price or f.worst > c.worst for f in fitted)
    ]
    cheap, rest = front[: SEQUENCE - 1], front[SEQUENCE - 1 :]
    if rest:
        cheap.append(next((c for c in rest if c.worst <= safe * target), rest[-1]))
    room = ROOM * safe / SAFE
    anchors = [c for c in able if c.kind == CLASSICAL and c.worst <= room * target]
    anchor = min(anchors, key=lambda c: (c.price, c.error), default=None)
    if anchor is not None and all(c.price != anchor.price for c in cheap):
        cheap = sorted([*cheap, anchor], key=lambda c: c.price)
    return cheap[::-1]
