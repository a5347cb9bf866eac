"""Which rows are worth choosing: Pareto marks on error and median latency.

A row is dominated only by one of its group that has no larger error and whose latency interval
lies entirely below its own: rows that the measurement cannot tell apart are both marked. A row
that failed, or has no error, is never marked and dominates nobody. The row of the smallest upper
latency limit is dominated by none, so every group with a measured row has a marked one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import NamedTuple

from odedeploy.profiling.records import Row


class Point(NamedTuple):
    """``low`` ≤ ``high`` are the limits of the latency; rows of other groups do not compete."""

    group: Hashable
    error: float
    low: float
    high: float


def front(points: Sequence[Point]) -> list[bool]:
    """Which points no other dominates."""
    return [not any(_dominates(other, point) for other in points) for point in points]


def mark(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows with ``pareto`` set, compared within the same model and target."""
    points = [_point(row) for row in rows]
    marks = iter(front([point for point in points if point is not None]))
    return tuple(
        replace(row, pareto=point is not None and next(marks))
        for row, point in zip(rows, points, strict=True)
    )


def _dominates(other: Point, point: Point) -> bool:
    return other.group == point.group and other.error <= point.error and other.high < point.low


def _point(row: Row) -> Point | None:
    interval = row.latency_interval_ms
    if not row.measured or interval is None or row.error is None or not math.isfinite(row.error):
        return None
    return Point((row.model, row.target), row.error, *interval)
