"""Which rows are worth choosing: Pareto marks on error and median latency.

A row is dominated only by one of its group that has no larger error and whose latency interval
lies entirely below its own: rows that the measurement cannot tell apart are both marked. A row
that failed, or has no error, is never marked and dominates nobody. The row of the smallest upper
latency limit is dominated by none, so every group with a measured row has a marked one.

Rounds of one process tell nothing of how the next process of the same file fares, which is put into
memory anew: intervals are widened by ``RESTART`` before they are compared.

A mark is sure where another measurement within the intervals would give it again: no row of no
larger error may turn out faster, or one certainly is.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import NamedTuple

from odedeploy.profiling.records import Row

RESTART = 0.03
"""Share by which the latency of one file differs between two processes, either way."""


class Point(NamedTuple):
    """``low`` ≤ ``high`` are the limits of the latency; rows of other groups do not compete."""

    group: Hashable
    error: float
    low: float
    high: float


def front(points: Sequence[Point]) -> list[bool]:
    """Which points no other dominates."""
    return [not any(_dominates(other, point) for other in points) for point in points]


def sure(points: Sequence[Point]) -> list[bool]:
    """Whose place on or off the front the intervals leave in no doubt."""
    return [
        any(_dominates(other, point) for other in points)
        or not any(_may_dominate(other, point) for other in points if other is not point)
        for point in points
    ]


def mark(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows with ``pareto``, ``pareto_sure`` and ``beaten_by`` set, each among its rivals."""
    found = [_point(row) for row in rows]
    points = [point for point in found if point is not None]
    named = [row for row, point in zip(rows, found, strict=True) if point is not None]
    verdicts = iter(
        zip(front(points), sure(points), (_best(p, points) for p in points), strict=True)
    )
    marked = []
    for row, point in zip(rows, found, strict=True):
        if point is None:
            marked.append(replace(row, pareto=False, pareto_sure=None, beaten_by=""))
            continue
        on, certain, better = next(verdicts)
        by = "" if better is None else named[better].file
        marked.append(replace(row, pareto=on, pareto_sure=certain, beaten_by=by))
    return tuple(marked)


def _best(point: Point, points: Sequence[Point]) -> int | None:
    """The fastest of those that dominate a point."""
    better = [index for index, other in enumerate(points) if _dominates(other, point)]
    return min(better, key=lambda index: points[index].high, default=None)


def _dominates(other: Point, point: Point) -> bool:
    return other.group == point.group and other.error <= point.error and other.high < point.low


def _may_dominate(other: Point, point: Point) -> bool:
    return other.group == point.group and other.error <= point.error and other.low <= point.high


def _point(row: Row) -> Point | None:
    interval = row.latency_interval_ms
    if not row.measured or interval is None or row.error is None or not math.isfinite(row.error):
        return None
    low, high = interval
    return Point(row.rivals, row.error, low / (1 + RESTART), high * (1 + RESTART))
