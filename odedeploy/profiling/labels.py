"""Words beside points of a matplotlib axes, where they cover the least."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

GAPS = (11.0, 24.0, 40.0)
"""Pixels between a point and its label."""
POINT = 18.0
"""Width and height of a point in pixels."""

Box = tuple[float, float, float, float]
"""Left, low, right and high in pixels."""


class Label(NamedTuple):
    """``words`` for the point (x, y) in data coordinates."""

    words: str
    x: float
    y: float
    colour: str


def place(
    axes: Any,
    renderer: Any,
    labels: Sequence[Label],
    paths: Sequence[Sequence[tuple[float, float]]],
) -> None:
    """Write every label, the first with the first choice; a far one gets a thin leader.

    ``paths`` are lines of horizontal and vertical pieces, in data coordinates, to keep clear of.
    """
    points = [axes.transData.transform((label.x, label.y)) for label in labels]
    taken = [_box(x - POINT / 2, y - POINT / 2, POINT, POINT) for x, y in points]
    lines = [box for path in paths for box in _pieces(axes.transData.transform(path))]
    frame = axes.get_window_extent(renderer)
    inside = axes.transAxes.inverted()
    for label, point in zip(labels, points, strict=True):
        text = axes.text(0, 0, label.words, fontsize=9, color=label.colour, zorder=5, va="bottom")
        extent = text.get_window_extent(renderer)
        best, lowest, far = (0.0, 0.0, 0.0, 0.0), math.inf, False
        for gap, x, y in _places(point[0], point[1], extent.width, extent.height):
            box = _box(x, y, extent.width, extent.height)
            cost = _cost(box, taken, lines, frame) + 3 * gap
            if cost < lowest:
                best, lowest, far = box, cost, gap > GAPS[0]
        taken.append(best)
        text.set(transform=axes.transAxes, position=inside.transform(best[:2]))
        if far:
            x, y = point
            nearest = (min(max(x, best[0]), best[2]), min(max(y, best[1]), best[3]))
            leader = inside.transform([(x, y), nearest]).T
            style = {"color": label.colour, "alpha": 0.5, "linewidth": 0.8, "zorder": 1}
            axes.plot(*leader, transform=axes.transAxes, **style)


def _places(
    x: float, y: float, width: float, height: float
) -> Iterator[tuple[float, float, float]]:
    """Distances and lower left corners of boxes around a point, the preferred first."""
    for gap in GAPS:
        right, left, middle = x + gap, x - gap - width, x - width / 2
        above, below, level = y + gap, y - gap - height, y - height / 2
        near = ((right, above - 4), (right, below + 4), (left, above - 4), (left, below + 4))
        sides = ((middle, above), (middle, below), (right, level), (left, level))
        for corner in (*near, *sides):
            yield gap, *corner


def _cost(box: Box, taken: Sequence[Box], lines: Sequence[Box], frame: Any) -> float:
    """Area that a label would cover; points and labels count more than lines, and the frame must
    not be crossed."""
    left, low, right, high = box
    outside = left < frame.x0 or right > frame.x1 or low < frame.y0 or high > frame.y1
    covered = sum(_overlap(box, other) for other in taken)
    crossed = sum(_overlap(box, line) for line in lines)
    return 4 * covered + crossed + (1e6 if outside else 0.0)


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _pieces(corners: Any) -> list[Box]:
    return [
        (min(a, c) - 2, min(b, d) - 2, max(a, c) + 2, max(b, d) + 2)
        for (a, b), (c, d) in itertools.pairwise(corners)
    ]


def _box(x: float, y: float, width: float, height: float) -> Box:
    return x, y, x + width, y + height
