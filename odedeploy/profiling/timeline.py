"""A plan's grid drawn on the time axis, one line a solve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def timelines(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(sentence, svg) for each solve of a plan as its manifest describes it.

    The sentence lists the times of the steps and of the evaluations; the picture shows steps as
    strokes and evaluations as dots. Its coordinates are percentages, so that it fills its place.
    """
    programs = {
        solve.get("site"): solve for solve in plan.get("program", {}).get("solves", ())
    }
    found = []
    for site in plan.get("sites", ()):
        times = [float(time) for time in site.get("times", ())]
        program = programs.get(site.get("name"), {}).get("program", ())
        stages = [float(step[2]) for step in program if step and step[0] == "f"]
        if len(times) > 1 and times[0] != times[-1]:
            sentence = _sentence(site, times, stages)
            found.append((sentence, _drawn(sentence, times, stages)))
    return found


def _sentence(site: Mapping[str, Any], times: Sequence[float], stages: Sequence[float]) -> str:
    said = (
        f"{site.get('name', 'solve')}: {site.get('solver', '')}, {site.get('nfe', '?')} "
        f"evaluations from t = {times[0]:g} to {times[-1]:g}; steps at {_listed(times)}"
    )
    return said + (f"; evaluations at {_listed(stages)}" if stages else "")


def _listed(times: Sequence[float]) -> str:
    shown = [f"{time:.6g}" for time in times]
    if len(shown) > 40:
        shown = [*shown[:20], f"… ({len(shown) - 30} more) …", *shown[-10:]]
    return ", ".join(shown)


def _drawn(sentence: str, times: Sequence[float], stages: Sequence[float]) -> str:
    first, last = times[0], times[-1]
    both = [*times, *stages]
    low, high = min(both), max(both)

    def at(time: float) -> str:
        share = (time - low) / (high - low)
        return f"{4 + 92 * (share if last > first else 1 - share):.2f}%"

    marks = [f'<line class="axis" x1="{at(first)}" x2="{at(last)}" y1="22" y2="22"/>']
    marks += [f'<line class="step" x1="{at(t)}" x2="{at(t)}" y1="10" y2="34"/>' for t in times]
    marks += [f'<circle class="stage" cx="{at(t)}" cy="22" r="4"/>' for t in stages]
    marks += [
        f'<text x="{at(t)}" y="52">t = {t:g}</text>' for t in (first, last)
    ]
    label = escape(sentence, quote=True)
    inner = "".join(marks)
    return f'<svg class="timeline" role="img" aria-label="{label}" height="58">{inner}</svg>'
