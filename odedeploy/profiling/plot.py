"""The trade-off as a picture: error against latency, log–log, one colour and marker a target."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from odedeploy.profiling.records import Profile, Row

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
"""Okabe and Ito's colours, told apart by colour-blind readers."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK = "#1b1f24"
GAPS = (11.0, 24.0, 40.0)
"""Pixels between a point and its label."""
SIZE, DPI = (10.0, 20 / 3), 120


def png(profile: Profile) -> bytes:
    """1200 × 800 pixels."""
    return _save(profile, INK, format="png", dpi=DPI)


def svg(profile: Profile) -> str:
    """One ``<svg>`` element for an HTML page: text stays text in the page's colour, the
    background is the page's, and nothing outside the page is referred to."""
    sentinel = "#010203"
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    options: dict[str, Any] = {"transparent": True, "metadata": nothing}
    text = _save(profile, sentinel, format="svg", **options).decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace(sentinel, "currentColor")


def describe(profile: Profile) -> str:
    """The picture in one sentence, for readers who do not see it."""
    points = _points(profile)
    if not points:
        return "Error against latency; no artefact was measured."
    best = [row for row in points if row.pareto]
    return f"Error against median latency of {len(points)} artefacts; on the Pareto front: " + (
        "; ".join(
            f"{row.solver} with {row.nfe} evaluations on {row.target}, "
            f"error {row.error:.2g}, {row.latency_ms.p50:.3g} ms"
            for row in best
        )
        + "."
    )


def _save(profile: Profile, ink: str, **options: Any) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = {
        "font.family": "DejaVu Sans",
        "svg.fonttype": "none",
        "svg.hashsalt": "odedeploy",
        **{f"{name}.color": ink for name in ("text", "xtick", "ytick")},
        **{f"axes.{name}": ink for name in ("edgecolor", "labelcolor", "titlecolor")},
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=SIZE, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _draw(axes, profile, ink)
        canvas.draw()
        figure.set_layout_engine("none")
        _label(axes, profile, canvas.get_renderer())
        target = io.BytesIO()
        figure.savefig(target, **options)
    return target.getvalue()


def _points(profile: Profile) -> list[Row]:
    return [
        row
        for row in profile.rows
        if row.measured and row.error and row.error > 0 and row.latency_ms.p50 is not None
    ]


def _series(profile: Profile) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row.model, row.target) for row in profile.rows))


def _draw(axes: Any, profile: Profile, ink: str) -> None:
    points, series = _points(profile), _series(profile)
    models = {model for model, _ in series}
    axes.set(xscale="log", yscale="log", xlabel="relative error", ylabel="median latency, ms")
    axes.figure.suptitle("What each digit of accuracy costs", color=ink)
    note = "labels: evaluations · solver     filled: on the Pareto front     bars: 95 % interval"
    axes.set_title(note, fontsize=9, pad=20)
    _limits(axes, profile, points)
    for index, key in enumerate(series):
        colour = PALETTE[index % len(PALETTE)]
        marker = MARKERS[index % len(MARKERS)]
        rows = [row for row in points if (row.model, row.target) == key]
        name = key[1] if len(models) == 1 else " · ".join(key)
        _draw_series(axes, rows, colour, marker, name)
        for base in profile.baselines:
            if (base.model, base.target) == key:
                _draw_baseline(axes, base, colour, name)
    for tol in sorted({row.tol for row in profile.rows if row.tol is not None}):
        axes.axvline(tol, color=ink, alpha=0.45, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
        axes.annotate(
            f"tol {_power(tol)}", (tol, 1), xycoords=("data", "axes fraction"), xytext=(0, 4),
            textcoords="offset points", ha="center", fontsize=9, alpha=0.75,
        )  # fmt: skip
    axes.grid(True, which="major", color=ink, alpha=0.12, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=2, frameon=False)
    else:
        axes.text(0.5, 0.5, "no artefact was measured", ha="center", transform=axes.transAxes)


def _draw_series(axes: Any, rows: Sequence[Row], colour: str, marker: str, name: str) -> None:
    if not rows:
        return
    x = [row.error for row in rows]
    y = [row.latency_ms.p50 for row in rows]
    limits = [row.latency_interval_ms for row in rows]
    spread = list(zip(*((p - lo, hi - p) for p, (lo, hi) in zip(y, limits, strict=True)), strict=True))
    axes.errorbar(x, y, spread, fmt="none", ecolor=colour, alpha=0.6, linewidth=1.2, zorder=2)
    for marked, face, size in ((True, colour, 64), (False, "none", 40)):
        chosen = [i for i, row in enumerate(rows) if row.pareto is marked]
        axes.scatter(
            [x[i] for i in chosen], [y[i] for i in chosen], s=size, marker=marker,
            facecolors=face, edgecolors=colour, linewidths=1.5, zorder=3,
            label=name if marked else None,
        )  # fmt: skip
    x, y = _front(rows, axes.get_xlim()[1])
    axes.step(x, y, where="post", color=colour, linewidth=1.5, alpha=0.7, zorder=2)


def _front(rows: Sequence[Row], edge: float) -> tuple[list[float], list[float]]:
    """Corners of the front: the lowest latency that is left when an error is allowed."""
    steps = sorted((row.error, row.latency_ms.p50) for row in rows if row.pareto)
    lowest = [min(p for _, p in steps[: i + 1]) for i in range(len(steps))]
    return [e for e, _ in steps] + [edge], lowest + lowest[-1:]


def _draw_baseline(axes: Any, row: Row, colour: str, name: str) -> None:
    p50 = row.latency_ms.p50
    if not row.measured or p50 is None:
        return
    evaluations = f", {row.nfe} evaluations" if row.nfe else ""
    label = f"PyTorch {row.solver} on {name}{evaluations}"
    if row.error:
        axes.scatter(
            [row.error], [p50], s=190, marker="*", facecolors=colour, edgecolors="white",
            linewidths=0.8, zorder=4, label=label,
        )  # fmt: skip
    else:
        axes.axhline(p50, color=colour, linewidth=1.3, linestyle="--", zorder=1, label=label)


def _limits(axes: Any, profile: Profile, points: Sequence[Row]) -> None:
    """Room around every point and tolerance, and labels at 1, 2 and 5 of every decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    baselines = [row for row in profile.baselines if row.measured]
    errors = [row.error for row in (*points, *baselines) if row.error]
    errors += [row.tol for row in profile.rows if row.tol is not None]
    latencies = [row.latency_ms.p50 for row in (*points, *baselines) if row.latency_ms.p50]
    for axis, values, least in ((axes.xaxis, errors, 1.6), (axes.yaxis, latencies, 1.35)):
        if values:
            low, high = min(values), max(values)
            room = max(least, (high / low) ** 0.08)
            set_limits = axes.set_xlim if axis is axes.xaxis else axes.set_ylim
            set_limits(low / room, high * room)
            subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
            axis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())


def _power(value: float) -> str:
    """1e-2 for 0.01."""
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _label(axes: Any, profile: Profile, renderer: Any) -> None:
    """Evaluations and solver beside every point, where they cover the least."""
    series = _series(profile)
    stars = [row for row in profile.baselines if row.measured and row.error and row.latency_ms.p50]
    points = [*_points(profile), *stars]
    pixel = [axes.transData.transform((row.error, row.latency_ms.p50)) for row in points]
    taken = [_box(x - 9, y - 9, 18, 18) for x, y in pixel]
    lines = _lines(axes, profile)
    frame = axes.get_window_extent(renderer)
    for index in sorted(range(len(points)), key=lambda i: (not points[i].pareto, points[i].error)):
        row = points[index]
        colour = PALETTE[series.index((row.model, row.target)) % len(PALETTE)]
        words = f"{row.nfe} · {row.solver}" if row.nfe else row.solver
        text = axes.text(0, 0, words, fontsize=9, color=colour, zorder=5)
        extent = text.get_window_extent(renderer)
        best, lowest, far = taken[index], math.inf, False
        for gap, x, y in _places(*pixel[index], extent.width, extent.height):
            box = _box(x, y, extent.width, extent.height)
            cost = _cost(box, taken, lines, frame) + 3 * gap
            if cost < lowest:
                best, lowest, far = box, cost, gap > GAPS[0]
        taken.append(best)
        inside = axes.transAxes.inverted()
        text.set(transform=axes.transAxes, va="bottom")
        text.set_position(inside.transform(best[:2]))
        if far:
            x, y = pixel[index]
            ends = [(x, y), (min(max(x, best[0]), best[2]), min(max(y, best[1]), best[3]))]
            axes.plot(*inside.transform(ends).T, transform=axes.transAxes, color=colour, alpha=0.5,
                      linewidth=0.8, zorder=1)  # fmt: skip


def _lines(axes: Any, profile: Profile) -> list[Box]:
    """Where the fronts and the tolerances run, as thin boxes in pixels."""
    bottom, top = axes.get_ylim()
    paths = [[(row.tol, bottom), (row.tol, top)] for row in profile.rows if row.tol is not None]
    for key in _series(profile):
        rows = [row for row in _points(profile) if (row.model, row.target) == key]
        if rows:
            x, y = _front(rows, axes.get_xlim()[1])
            corners = [(a, b) for i, b in enumerate(y[:-1]) for a in x[i : i + 2]]
            paths.append(corners)
    boxes = []
    for path in paths:
        pixels = axes.transData.transform(path)
        for (a, b), (c, d) in itertools.pairwise(pixels):
            boxes.append((min(a, c) - 2, min(b, d) - 2, max(a, c) + 2, max(b, d) + 2))
    return boxes


Box = tuple[float, float, float, float]


def _box(x: float, y: float, width: float, height: float) -> Box:
    return x, y, x + width, y + height


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
    """Area in pixels that a label would cover; marks and labels count more than lines, and the
    frame must not be crossed."""
    left, low, right, high = box
    outside = left < frame.x0 or right > frame.x1 or low < frame.y0 or high > frame.y1
    covered = 4 * sum(_overlap(box, other) for other in taken)
    return covered + sum(_overlap(box, line) for line in lines) + 1e6 * outside


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
