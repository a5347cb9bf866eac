"""The trade-off for the page: one SVG plot per target and batch size, which a script can rescale.

Positions are written as shares of the axes, ``data-u`` from the left and ``data-v`` from the top,
beside the coordinates of a plot of ``WIDTH`` × ``HEIGHT``, so that the page shows the whole picture
without its script and the script zooms and fits it to the screen by one affine map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from odedeploy.profiling.records import Row, place, short
from odedeploy.profiling.scales import (
    BOTTOM,
    EXACT,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    power,
    x_at,
    y_at,
)
from odedeploy.profiling.words import number

COLOURS = 6
"""Colours of the page's style sheet, ``--s0`` and so on."""

SHAPES = (
    "M0-6A6 6 0 1 1 0 6A6 6 0 1 1 0-6Z",
    "M-5.4-5.4H5.4V5.4H-5.4Z",
    "M0-7L6.5 5H-6.5Z",
    "M0-7.5L6.5 0L0 7.5L-6.5 0Z",
    "M0 7L6.5-5H-6.5Z",
)
STAR = "M0-9L2.2-3L8.6-2.8L3.6 1.2L5.3 7.3L0 3.8L-5.3 7.3L-3.6 1.2L-8.6-2.8L-2.2-3Z"


@dataclass(frozen=True)
class Panel:
    """One plot: its title, the picture and what its marks mean, as (svg, words)."""

    title: str
    svg: str
    legend: tuple[tuple[str, str], ...]


def panels(rows: Sequence[Row], baselines: Sequence[Row]) -> list[Panel]:
    """One for each device, target and batch size, in the order of the rows."""
    every = [row for row in (*rows, *baselines) if row.measured and row.latency_ms.p50]
    errors = [max(row.error, EXACT) for row in every if row.error is not None and row.solves]
    errors += [row.tol for row in rows if row.tol is not None and row.solves]
    across = Axis.of(errors)
    models = list(dict.fromkeys(row.model for row in every))
    kinds = list(dict.fromkeys((row.precision, row.form) for row in rows))
    groups = dict.fromkeys((row.device, row.target, row.batch) for row in every)
    return [
        _Drawing(
            index, [row for row in every if (row.device, row.target, row.batch) == group], across,
            models, kinds, [*rows, *baselines],
        ).panel()
        for index, group in enumerate(groups)
    ]  # fmt: skip


class _Drawing:
    def __init__(
        self, index: int, own: Sequence[Row], across: Axis, models: list[str],
        kinds: list[tuple[str, str]], every: Sequence[Row],
    ) -> None:  # fmt: skip
        self.index, self.own, self.across = index, own, across
        self.models, self.kinds, self.every = models, kinds, every
        limits = [x for row in own for x in (row.latency_ms.p50, *(row.latency_interval_ms or ()))]
        self.up = Axis.of([x for x in limits if x])
        self.name = place(own[0]) + ("" if own[0].batch == 1 else f", batch {own[0].batch}")

    def panel(self) -> Panel:
        points = [row for row in self.own if row.error is not None and row.solves]
        lines = [row for row in self.own if row not in points]
        parts = [*self._axes(), f'<g clip-path="url(#clip-{self.index})">', *self._tolerances()]
        for model in self.models:
            parts += self._front([row for row in points if row.model == model])
        parts += [self._line(row) for row in lines]
        parts += [self._bar(row) for row in points]
        parts.append("</g>")
        parts += [self._point(row) for row in points]
        title = escape(f"Error against median latency on {self.name}", quote=True)
        inner = "\n".join(parts)
        svg = (
            f'<svg class="plot" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="group" '
            f'aria-label="{title}">\n<defs><clipPath id="clip-{self.index}"><rect x="{LEFT:g}" '
            f'y="{TOP:g}" width="{WIDTH - LEFT - RIGHT:g}" height="{HEIGHT - TOP - BOTTOM:g}"/>'
            f"</clipPath></defs>\n{inner}\n</svg>"
        )
        return Panel(self.name, svg, tuple(self._legend(points, lines)))

    def _axes(self) -> Iterator[str]:
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        yield f'<path class="frame" d="M{LEFT:g} {TOP:g}V{bottom:g}H{right:g}"/>'
        for value, rank in self.across.ticks():
            u = self.across.share(value)
            shown = "" if 0 <= u <= 1 and rank == 0 else ' hidden=""'
            yield (
                f'<g class="tick x" data-u="{u:.5f}" data-rank="{rank}"{shown}>'
                f'<line x1="{x_at(u)}" x2="{x_at(u)}" y1="{TOP:g}" y2="{bottom:g}"/>'
                f'<text x="{x_at(u)}" y="{bottom + 17:g}">{power(value)}</text></g>'
            )
        for value, rank in self.up.ticks():
            v = 1 - self.up.share(value)
            shown = "" if 0 <= v <= 1 and rank < 2 else ' hidden=""'
            yield (
                f'<g class="tick y" data-v="{v:.5f}" data-rank="{rank}"{shown}>'
                f'<line x1="{LEFT:g}" x2="{right:g}" y1="{y_at(v)}" y2="{y_at(v)}"/>'
                f'<text x="{LEFT - 7:g}" y="{y_at(v)}">{value:g}</text></g>'
            )
        yield (
            f'<text class="name x" x="{(LEFT + right) / 2:g}" y="{HEIGHT - 6:g}">error</text>'
            f'<text class="name y" x="4" y="14">median latency, ms</text>'
        )

    def _tolerances(self) -> Iterator[str]:
        for tol in sorted({row.tol for row in self.own if row.tol is not None and row.solves}):
            u = self.across.share(tol)
            yield (
                f'<g class="tol" data-u="{u:.5f}"><line x1="{x_at(u)}" x2="{x_at(u)}" y1="{TOP:g}" '
                f'y2="{HEIGHT - BOTTOM:g}"/><text x="{x_at(u, -4)}" y="{TOP + 11:g}">'
                f"tol {power(tol)}</text></g>"
            )

    def _at(self, row: Row) -> tuple[float, float]:
        assert row.error is not None and row.latency_ms.p50 is not None
        u = self.across.share(max(row.error, EXACT))
        return u, 1 - self.up.share(row.latency_ms.p50)

    def _front(self, rows: Sequence[Row]) -> Iterator[str]:
        """The lowest latency that is left when an error is allowed, in steps."""
        corners: list[tuple[float, float]] = []
        for u, v in sorted(self._at(row) for row in rows if row.pareto):
            if not corners:
                corners.append((u, v))
            elif v > corners[-1][1]:
                corners += [(u, corners[-1][1]), (u, v)]
        if corners:
            corners.append((9.0, corners[-1][1]))
            path = " ".join(f"{u:.5f},{v:.5f}" for u, v in corners)
            drawn = "M" + "L".join(f"{x_at(u)} {y_at(v)}" for u, v in corners)
            yield f'<path class="front {self._colour(rows[0])}" data-path="{path}" d="{drawn}"/>'

    def _bar(self, row: Row) -> str:
        (u, _), (low, high) = self._at(row), row.latency_interval_ms or (0.0, 0.0)
        if not low:
            return ""
        top, bottom = 1 - self.up.share(high), 1 - self.up.share(low)
        return (
            f'<line class="bar {self._colour(row)}" data-u="{u:.5f}" data-v="{top:.5f}" '
            f'data-w="{bottom:.5f}" x1="{x_at(u)}" x2="{x_at(u)}" y1="{y_at(top)}" '
            f'y2="{y_at(bottom)}"/>'
        )

    def _line(self, row: Row) -> str:
        """A model without an error to show, by its latency alone."""
        assert row.latency_ms.p50 is not None
        v = 1 - self.up.share(row.latency_ms.p50)
        words = _model(row)
        label = escape(f"{words}{_kind(row)}")
        return (
            f'<g class="level {self._colour(row)}" data-v="{v:.5f}">'
            f'<line x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{y_at(v)}" y2="{y_at(v)}"/>'
            f'<text x="{LEFT + 8:g}" y="{y_at(v, -5)}">{label}</text></g>'
        )

    def _point(self, row: Row) -> str:
        u, v = self._at(row)
        kind = "on" if row.pareto else "off"
        told = escape(tell(row), quote=True)
        return (
            f'<a class="point {kind} {self._colour(row)}" href="#row-{self.every.index(row)}" '
            f'data-u="{u:.5f}" data-v="{v:.5f}" transform="translate({x_at(u)} {y_at(v)})" '
            f'aria-label="{told}" data-tell="{told}"><circle class="target" r="14"/>'
            f'<path d="{self._shape(row)}"/><text x="11" y="-7">{escape(row.label)}</text></a>'
        )

    def _shape(self, row: Row) -> str:
        if row.format == "pytorch":
            return STAR
        return SHAPES[self.kinds.index((row.precision, row.form)) % len(SHAPES)]

    def _colour(self, row: Row) -> str:
        return f"s{self.models.index(row.model) % COLOURS}"

    def _legend(self, points: Sequence[Row], lines: Sequence[Row]) -> Iterator[tuple[str, str]]:
        seen = set()
        for row in (*points, *lines):
            words = _model(row)
            words += _kind(row)
            if words in seen:
                continue
            seen.add(words)
            shape = f'<path d="{self._shape(row)}"/>' if row in points else '<path d="M-9 0H9"/>'
            yield (
                f'<svg class="key" viewBox="-10 -10 20 20" aria-hidden="true"><g class="point on '
                f'{self._colour(row)}">{shape}</g></svg>',
                words,
            )


def tell(row: Row) -> str:
    """A point in one sentence."""
    low, high = row.latency_interval_ms or (None, None)
    parts = [f"{short(row.model)}{_kind(row)}"]
    parts += [f"tolerance {row.tol:g}"] if row.tol is not None else []
    parts += [f"{row.solver}" + (f", {row.nfe} evaluations" if row.nfe else "")]
    parts += [f"error {number(row.error)}"]
    parts += [f"{number(row.latency_ms.p50)} ms ({number(low)} to {number(high)})"]
    parts += ["on the Pareto front"] if row.pareto else []
    return "; ".join(parts)


def _model(row: Row) -> str:
    return short(row.model) + (" in PyTorch" if row.format == "pytorch" else "")


def _kind(row: Row) -> str:
    said = [part for part in (row.precision, row.form) if part not in ("fp32", "unrolled")]
    return "" if row.format == "pytorch" or not said else f", {' '.join(said)}"
