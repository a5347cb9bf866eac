"""The trade-off as a picture: error against latency, log–log, one colour and marker a target."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from odedeploy.profiling.labels import Label
from odedeploy.profiling.labels import place as place_labels
from odedeploy.profiling.records import Row, place, short
from odedeploy.profiling.result import Profile
from odedeploy.profiling.scales import EXACT, power

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
"""Okabe and Ito's colours, told apart by colour-blind readers."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK = "#1b1f24"
SIZE, DPI = (10.0, 20 / 3), 120
TOGETHER = 2
"""Most places whose points share one plot."""


class Mark(NamedTuple):
    """A measured row as a point: its error and its median latency in ms."""

    row: Row
    x: float
    y: float


def png(profile: Profile) -> bytes:
    """1200 × 800 pixels."""
    return _save(profile, INK, format="png", dpi=DPI)


def standalone(profile: Profile) -> str:
    """The same picture as an SVG file, on white."""
    style: dict[str, Any] = {"metadata": dict.fromkeys(("Creator", "Date", "Format", "Type"))}
    return _save(profile, INK, format="svg", facecolor="white", **style).decode()


def _save(profile: Profile, ink: str, **options: Any) -> bytes:
    import matplotlib

    style: Any = {
        "font.family": "DejaVu Sans",
        "text.parse_math": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "odedeploy",
        **{f"{name}.color": ink for name in ("text", "xtick", "ytick")},
        **{f"axes.{name}": ink for name in ("edgecolor", "labelcolor", "titlecolor")},
    }
    target = io.BytesIO()
    with matplotlib.rc_context(style):
        figure(profile, ink).savefig(target, **options)
    return target.getvalue()


def figure(profile: Profile, ink: str) -> Any:
    """The drawn ``matplotlib.figure.Figure``, made without pyplot and its global state.

    Up to ``TOGETHER`` places share one plot; more get one each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places = _places(profile)
    parts = [profile] if len(places) <= TOGETHER else [_part(profile, place) for place in places]
    lines = -(-len(parts) // 2)
    size = SIZE if len(parts) == 1 else (SIZE[0] * 1.4, 4.8 * lines)
    drawn = Figure(figsize=size, dpi=DPI, layout="constrained")
    canvas: Any = FigureCanvasAgg(drawn)
    several = [drawn.add_subplot(lines, min(2, len(parts)), i + 1) for i in range(len(parts))]
    for axes, part in zip(several, parts, strict=True):
        _draw(axes, part, profile, ink)
    canvas.draw()
    drawn.set_layout_engine("none")
    for axes, part in zip(several, parts, strict=True):
        _label(axes, part, canvas.get_renderer())
    return drawn


def _places(profile: Profile) -> list[str]:
    every = (*profile.rows, *profile.baselines)
    return list(dict.fromkeys(_place(row) for row in every if row.measured))


def _part(profile: Profile, where: str) -> Profile:
    """The rows of one place, failed ones left out."""
    rows, baselines = (
        tuple(row for row in side if row.measured and _place(row) == where)
        for side in (profile.rows, profile.baselines)
    )
    return replace(profile, rows=rows, baselines=baselines)


def _place(row: Row) -> str:
    return place(row) + ("" if row.batch == 1 else f", batch {row.batch}")


def _marks(rows: Sequence[Row]) -> list[Mark]:
    return [
        Mark(row, max(row.error, EXACT), row.latency_ms.p50)
        for row in rows
        if row.measured and row.solves and row.error is not None
        if row.latency_ms.p50 is not None
    ]


def _series(profile: Profile) -> list[tuple[str, str]]:
    rows = (*profile.rows, *profile.baselines)
    return list(dict.fromkeys(map(_key, rows)))


def _key(row: Row) -> tuple[str, str]:
    return short(row.model), _place(row)


def _draw(axes: Any, profile: Profile, whole: Profile, ink: str) -> None:
    """One plot of ``profile``, as wide as the ``whole`` of which it is a part."""
    marks, series = _marks(profile.rows), _series(profile)
    models, places = ({key[side] for key in series} for side in (0, 1))
    axes.set(xscale="log", yscale="log", xlabel="relative error", ylabel="median latency, ms")
    axes.figure.suptitle("What each digit of accuracy costs", color=ink)
    note = "labels: evaluations · solver     filled: on the Pareto front     bars: 95 % interval"
    alone = profile is whole
    axes.set_title(note if alone else ", ".join(places), fontsize=9 if alone else 11, pad=20)
    _limits(axes, profile, whole)
    for index, key in enumerate(series):
        colour = PALETTE[index % len(PALETTE)]
        marker = MARKERS[index % len(MARKERS)]
        own = [mark for mark in marks if _key(mark.row) == key]
        name = key[0] if not alone else key[1] if len(models) == 1 else " · ".join(key)
        _draw_series(axes, own, colour, marker, name)
        for base in profile.baselines:
            if _key(base) == key:
                _draw_baseline(axes, base, colour, name)
        for row in profile.rows:
            if _key(row) == key and not row.solves and row.measured:
                axes.axhline(row.latency_ms.p50, color=colour, linewidth=1.3, zorder=1,
                             linestyle="-.", label=f"{name}, {row.precision}")  # fmt: skip
    for tol in sorted({row.tol for row in profile.rows if row.tol is not None and row.solves}):
        axes.axvline(tol, color=ink, alpha=0.45, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
        axes.annotate(
            f"tol {power(tol)}", (tol, 1), xycoords=("data", "axes fraction"), xytext=(0, 4),
            textcoords="offset points", ha="center", fontsize=9, alpha=0.75,
        )  # fmt: skip
    axes.grid(True, which="major", color=ink, alpha=0.12, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=2, frameon=False)
    else:
        axes.text(0.5, 0.5, "no artefact was measured", ha="center", transform=axes.transAxes)


def _draw_series(axes: Any, marks: Sequence[Mark], colour: str, marker: str, name: str) -> None:
    if not marks:
        return
    spread = [(y - low, high - y) for row, _, y in marks for low, high in [_interval(row, y)]]
    axes.errorbar(
        [mark.x for mark in marks], [mark.y for mark in marks], list(zip(*spread, strict=True)),
        fmt="none", ecolor=colour, alpha=0.6, linewidth=1.2, zorder=2,
    )  # fmt: skip
    for marked, face, size in ((True, colour, 64), (False, "none", 40)):
        chosen = [mark for mark in marks if mark.row.pareto is marked]
        axes.scatter(
            [mark.x for mark in chosen], [mark.y for mark in chosen], s=size, marker=marker,
            facecolors=face, edgecolors=colour, linewidths=1.5, zorder=3,
            label=name if marked else None,
        )  # fmt: skip
    corners = _front(marks, axes.get_xlim()[1])
    axes.plot(*zip(*corners, strict=True), color=colour, linewidth=1.5, alpha=0.7, zorder=2)


def _interval(row: Row, p50: float) -> tuple[float, float]:
    return row.latency_interval_ms or (p50, p50)


def _front(marks: Sequence[Mark], edge: float) -> list[tuple[float, float]]:
    """Corners of the front's steps: the lowest latency that is left when an error is allowed."""
    steps = sorted((mark.x, mark.y) for mark in marks if mark.row.pareto)
    corners: list[tuple[float, float]] = []
    for error, latency in steps:
        if not corners:
            corners.append((error, latency))
        elif latency < corners[-1][1]:
            corners += [(error, corners[-1][1]), (error, latency)]
    return [*corners, (edge, corners[-1][1])] if corners else [(edge, 1.0)]


def _draw_baseline(axes: Any, row: Row, colour: str, name: str) -> None:
    p50 = row.latency_ms.p50
    if not row.measured or p50 is None:
        return
    evaluations = f", {row.nfe} evaluations" if row.nfe else ""
    solver = f" {row.solver}" if row.solves else ""
    label = f"PyTorch{solver} on {name}{evaluations}"
    if row.error is not None and row.solves:
        axes.scatter(
            [max(row.error, EXACT)], [p50], s=190, marker="*", facecolors=colour,
            edgecolors="white", linewidths=0.8, zorder=4, label=label,
        )  # fmt: skip
    else:
        axes.axhline(p50, color=colour, linewidth=1.3, linestyle="--", zorder=1, label=label)


def _limits(axes: Any, profile: Profile, whole: Profile) -> None:
    """Room around every point and tolerance, and labels at 1, 2 and 5 of every decade; the errors
    are those of the whole, so that its parts stand below each other."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    every = (*profile.rows, *profile.baselines)
    errors = [mark.x for mark in _marks((*whole.rows, *whole.baselines))]
    errors += [row.tol for row in whole.rows if row.tol is not None and row.solves]
    latencies = [row.latency_ms.p50 for row in every if row.latency_ms.p50 is not None]
    for axis, values, least in ((axes.xaxis, errors, 1.6), (axes.yaxis, latencies, 1.35)):
        if values:
            low, high = min(values), max(values)
            room = max(least, (high / low) ** 0.08)
            set_limits = axes.set_xlim if axis is axes.xaxis else axes.set_ylim
            set_limits(low / room, high * room)
            subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
            axis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())


def _label(axes: Any, profile: Profile, renderer: Any) -> None:
    """Evaluations and solver beside every point, those on the front first."""
    series = _series(profile)
    marks = _marks((*profile.rows, *profile.baselines))
    labels = [
        Label(
            row.label,
            x,
            y,
            PALETTE[series.index(_key(row)) % len(PALETTE)],
        )
        for row, x, y in sorted(marks, key=lambda mark: (not mark.row.pareto, mark.x))
    ]
    bottom, top = axes.get_ylim()
    tols = {row.tol for row in profile.rows if row.tol is not None and row.solves}
    paths = [[(tol, bottom), (tol, top)] for tol in sorted(tols)]
    for key in series:
        own = [mark for mark in _marks(profile.rows) if _key(mark.row) == key]
        paths.append(_front(own, axes.get_xlim()[1]))
    place_labels(axes, renderer, labels, paths)
