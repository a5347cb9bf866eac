"""The fastest target: one plan in every format that a usable target takes, measured in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from odedeploy import formats, profiling
from odedeploy.delivery import Draft, drafted
from odedeploy.errors import FellShort, OdeDeployError, Unusable
from odedeploy.graph import OdeGraph
from odedeploy.manifest import Manifest
from odedeploy.planned import Planned, Progress, silent
from odedeploy.profiling import Entry, Query
from odedeploy.reference import take
from odedeploy.spec import LOW_PRECISION, ExportSpec
from odedeploy.targets import Target, find, names, usable

AUTO = "auto"
"""The name of the target, and of the format, that is to be found."""

QUERIES = 16
SECONDS = 10.0
"""Time of the measured rounds, shared by all candidates."""


@dataclass(frozen=True)
class Contender:
    """How one target did; ``latency_ms`` is the median of one inference."""

    target: str
    format: str
    verdict: str
    latency_ms: float | None = None


def candidates(spec: ExportSpec) -> list[Target]:
    """The targets that are usable here and take what ``spec`` asks for, ONNX on the CPU first;
    those with a quota stand for another device and take no part.

    Raises Unusable, with the reason of the first, when there is none.
    """
    fitting = [
        target
        for target in map(find, names())
        if target.quota is None
        and spec.format in (AUTO, target.format)
        and spec.form in formats.find(target.format).forms
        and (spec.precision == "fp32" or target.format in LOW_PRECISION)
    ]
    problems = {target.name: _problem(target) for target in fitting}
    found = [target for target in fitting if problems[target.name] is None]
    if not found:
        reasons = [reason for reason in problems.values() if reason]
        raise Unusable(reasons[0] if reasons else f"No target runs {spec.form} {spec.format}.")
    return found


def deliver_fastest(
    graph: OdeGraph,
    planned: Planned,
    path: Path,
    targets: Sequence[Target],
    progress: Progress = silent,
) -> Manifest:
    """Write the artefact of the target with the lowest median latency that keeps the tolerance.

    Every one is verified and certified on its target, as an export for it would be. The name of
    the file gets the suffix of its format where it has none that is known.

    Raises FellShort, and writes nothing, when none keeps the tolerance or none can be measured.
    """
    drafts: dict[tuple[str, str], Draft] = {}
    contenders: list[Contender] = []
    entries: list[Entry] = []
    with tempfile.TemporaryDirectory(prefix="odedeploy-") as folder:
        for target in targets:
            key, spec = (target.format, target.variant), planned.spec
            asked = replace(spec, target=target.name, format=target.format, best_effort=False)
            file = Path(folder) / f"{len(drafts)}{formats.find(target.format).suffix}"
            try:
                if key not in drafts:
                    named = named_for(path, target.format)
                    drafts[key] = drafted(graph, replace(planned, spec=asked), named, progress)
                    drafts[key].write(file)
            except OdeDeployError as error:
                contenders.append(Contender(target.name, target.format, str(error)))
                continue
            held = next((e.file for e in entries if _key(e.target) == key), file)
            queries = _queries(planned, target.batch)
            entries.append(Entry.of("model", held, drafts[key].manifest, target, queries))
        if not entries:
            raise FellShort(contenders[0].verdict)
        rows = profiling.profile(
            entries, (), SECONDS, lambda share, text: progress(text, round(100 * share), 100),
            seed=planned.spec.seed,
        ).rows  # fmt: skip
    times = [row.latency_ms.p50 if row.measured else None for row in rows]
    measured = [(time, i) for i, time in enumerate(times) if time is not None]
    if not measured:
        raise FellShort(rows[0].reason)
    best = entries[min(measured)[1]].target
    for entry, row, time in zip(entries, rows, times, strict=True):
        verdict = "fastest" if entry.target is best else row.reason or "slower"
        contenders.append(Contender(entry.target.name, entry.target.format, verdict, time))
    draft = drafts[_key(best)]
    notes = {**draft.manifest.extra, "targets": [asdict(contender) for contender in contenders]}
    chosen = replace(draft, manifest=replace(draft.manifest, target=best.name, extra=notes))
    return chosen.write(named_for(path, best.format))


def named_for(path: Path, format: str) -> Path:
    """``path``, with the suffix of ``format`` where it has none of a format's."""
    if path.name.lower().endswith(tuple(formats.SUFFIXES)):
        return path
    return path.with_name(path.name + formats.find(format).suffix)


def _key(target: Target) -> tuple[str, str]:
    return target.format, target.variant


def _problem(target: Target) -> str | None:
    try:
        formats.find(target.format).ready()
    except Unusable as error:
        return str(error)
    return usable(target)


def _queries(planned: Planned, batch: int) -> list[Query]:
    splits = planned.splits
    inputs, rows = splits.certify.inputs, len(splits.certify)
    return [
        take(inputs, np.arange(i * batch, (i + 1) * batch) % rows, splits.static)
        for i in range(min(QUERIES, max(1, rows // batch)))
    ]
