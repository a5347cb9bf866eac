"""The profile as one self-contained HTML page: no network, no other file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from odedeploy.profiling import words
from odedeploy.profiling.panels import panels
from odedeploy.profiling.records import PERCENTILES, Row, place, short
from odedeploy.profiling.result import Profile
from odedeploy.profiling.timeline import timelines


def html(profile: Profile) -> str:
    """The page. Everything that comes from outside is escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": words.number, "milliseconds": words.milliseconds, "size": words.size,
        "place": place, "said": said, "short": short,
    }  # fmt: skip
    every = [*profile.rows, *profile.baselines]
    return environment.from_string(_source("report.html")).render(
        profile=profile,
        headlines=words.headlines(profile.rows),
        rows=[(index, row) for index, row in enumerate(every) if row.measured],
        failed=[row for row in every if not row.measured],
        losses=list(words.losses(profile.rows)),
        percentiles=PERCENTILES,
        panels=panels(profile.rows, profile.baselines),
        places=places(every),
        comparison=comparison(every),
        timelines=timelines,
        style=Markup(_source("report.css")),
        script=Markup(_source("report.js")),
    )


def places(rows: Sequence[Row]) -> list[str]:
    """Where something was measured: targets, and those of devices."""
    return list(dict.fromkeys(place(row) for row in rows if row.measured))


def comparison(rows: Sequence[Row]) -> list[tuple[str, list[tuple[Row, float] | None]]]:
    """For every artefact and batch, its row in each place and how its latency compares with the
    first place that has one; artefacts that ran in one place only are left out.

    The same plan in files of several formats counts as one artefact.
    """
    named = places(rows)
    groups: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.measured and row.latency_ms.p50:
            groups.setdefault(_what(row), {}).setdefault(place(row), row)
    table = []
    for what, found in groups.items():
        if len(found) < 2:
            continue
        base = next(found[name] for name in named if name in found).latency_ms.p50 or 1.0
        line = [found.get(name) for name in named]
        table.append(
            (what, [row and (row, (row.latency_ms.p50 or 0.0) / base) for row in line])
        )
    return table  # type: ignore[return-value]


def _what(row: Row) -> str:
    """An artefact whatever its format and place."""
    parts = [short(row.model), "in PyTorch" if row.format == "pytorch" else f"within {row.tol:g}"]
    if row.format != "pytorch":
        parts += [part for part in (row.precision, row.form) if part not in ("fp32", "unrolled")]
    return " ".join(parts) + ("" if row.batch == 1 else f", batch {row.batch}")


def said(value: Any) -> str:
    """A value of the request or the machine in words."""
    if value is None:
        return words.MISSING
    if isinstance(value, dict):
        return ", ".join(f"{key} {said(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(said, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _source(name: str) -> str:
    return files("odedeploy.profiling").joinpath(name).read_text(encoding="utf-8")
