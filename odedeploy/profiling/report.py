"""The profile as one self-contained HTML page: no network, no other file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from odedeploy.profiling import plot
from odedeploy.profiling.records import PERCENTILES, Row
from odedeploy.profiling.result import Profile

MISSING = "n/a"


def html(profile: Profile) -> str:
    """The page. Everything that comes from outside is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "milliseconds": milliseconds, "size": size}
    source = files("odedeploy.profiling").joinpath("report.html").read_text(encoding="utf-8")
    every = [*profile.rows, *profile.baselines]
    return environment.from_string(source).render(
        profile=profile,
        headlines=headlines(profile),
        rows=[row for row in every if row.measured],
        failed=[row for row in every if not row.measured],
        percentiles=PERCENTILES,
        sites=sites,
        svg=plot.svg(profile),
        description=plot.describe(profile),
    )


def headlines(profile: Profile) -> list[str]:
    """For every target, the cheapest row of each tolerance beside the baseline, in sentences."""
    sentences = []
    for row in profile.rows:
        p50 = row.latency_ms.p50
        if not row.pareto or row.tol is None or p50 is None or not _cheapest(row, profile.rows):
            continue
        sentence = (
            f"{row.model} within {row.tol:g} takes {number(p50)} ms on {row.target}: "
            f"{row.solver} with {row.nfe} evaluations"
        )
        if row.ratio is not None and row.ratio.base == "PyTorch":
            times, low, high = (
                number(1 / value) for value in (row.ratio.value, row.ratio.high, row.ratio.low)
            )
            sentence += f", {times} × as fast as the PyTorch solve (95 % interval {low} to {high})"
        sentences.append(sentence + ".")
    return sentences


def sites(row: Row) -> Sequence[dict[str, Any]]:
    """The solves of a row's plan."""
    found: Sequence[dict[str, Any]] = row.plan.get("sites", ())
    return found


def number(value: float | None) -> str:
    """Three significant digits, n/a for None."""
    if value is None:
        return MISSING
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds, n/a for None."""
    return number(None if seconds is None else 1e3 * seconds)


def size(value: int | None) -> str:
    """Bytes in kB or MB (10³, 10⁶)."""
    if value is None:
        return MISSING
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"


def _cheapest(row: Row, rows: Sequence[Row]) -> bool:
    """Whether no other row of the same model, target and tolerance is faster."""
    key = (row.model, row.target, row.tol)
    rivals = [other for other in rows if (other.model, other.target, other.tol) == key]
    return row is min(
        (other for other in rivals if other.latency_ms.p50 is not None),
        key=lambda other: other.latency_ms.p50 or 0.0,
    )
