"""Results of kits from devices elsewhere, and their rows beside those of this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from odedeploy import profiling
from odedeploy.errors import BadInput
from odedeploy.profiling import meter as meters
from odedeploy.profiling import pareto, rows
from odedeploy.profiling.kit_run import RESULT
from odedeploy.profiling.measure import Trace
from odedeploy.profiling.records import Row
from odedeploy.profiling.result import Profile

NOTHING = {"p50": None, "p90": None, "p99": None}
NO_METERS: Mapping[str, Path] = {}


@dataclass(frozen=True)
class Elsewhere:
    """What one device gave."""

    device: str
    machine: dict[str, Any]
    rows: tuple[Row, ...]


def read(path: Path, metered: Mapping[str, Path] = NO_METERS) -> Elsewhere:
    """A kit's ``result.json``, ``metered`` are files of power meters by their devices.

    Raises BadInput for any other file.
    """
    known = {device: meters.read(file) for device, file in metered.items()}
    try:
        return of(json.loads(path.read_text(encoding="utf-8")), known)
    except (OSError, ValueError, KeyError, TypeError, BadInput) as error:
        raise BadInput(
            f"{path} is no result of a kit ({error}); give what its run.py wrote."
        ) from error


def of(result: dict[str, Any], metered: Mapping[str, meters.Meter]) -> Elsewhere:
    """Raises KeyError, TypeError, ValueError or BadInput for what no runner wrote."""
    if result["result"] != RESULT:
        raise BadInput(f"it says {result['result']!r} in place of {RESULT!r}")
    device, jobs = str(result["device"]), dict(result["jobs"])
    traces = {name: Trace() for name in jobs}
    for line in result["lines"]:
        traces[line["job"]].take(line)
    known = {artefact["row"]["file"]: artefact["row"] for artefact in result["artefacts"]}
    blank = [_blank(known[job["file"]], job, device) for job in jobs.values()]
    done = rows.finish(blank, list(traces.values()), int(result["seed"]), metered.get(device))
    return Elsewhere(device, dict(result["machine"]), tuple(done))


def merged(profile: Profile, elsewhere: Sequence[Elsewhere]) -> Profile:
    """The profile with the rows of devices, in place of those that it held of them before.

    A row of a file that was measured here belongs to the same model.
    """
    if not elsewhere:
        return profile
    here = {row.file: row for row in profile.rows if row.file and not row.device}
    names = {each.device for each in elsewhere}
    kept = [row for row in profile.rows if row.device not in names]
    added = [_known(row, here.get(row.file)) for each in elsewhere for row in each.rows]
    machines = {each.device: each.machine for each in elsewhere}
    return replace(
        profile, rows=pareto.mark([*kept, *added]), devices={**profile.devices, **machines}
    )


def joined(
    folder: Path, paths: Sequence[Path], metered: Mapping[str, Path] = NO_METERS
) -> Profile:
    """The profile that ``folder`` holds, with the results in ``paths``, written there again.

    A folder without a profile gets one of the devices alone. Raises BadInput for no results.
    """
    if not paths:
        raise BadInput("A profile needs a model or file, or a result to merge; give one.")
    elsewhere, known = [read(path, metered) for path in paths], folder / "profile.json"
    profile = Profile({}, {}, ())
    if known.is_file():
        try:
            profile = Profile.from_json(json.loads(known.read_text(encoding="utf-8")))
        except ValueError as error:
            raise BadInput(f"{known} is damaged ({error}); sweep again.") from error
    result = warned(merged(profile, elsewhere), metered)
    profiling.write(result, folder)
    return result


def warned(profile: Profile, metered: Mapping[str, Path]) -> Profile:
    """The profile, saying which rows the meters do not cover."""
    lacking = meters.lacking([*profile.rows, *profile.baselines], metered)
    return replace(profile, warnings=tuple(dict.fromkeys((*profile.warnings, *lacking))))


def _blank(row: dict[str, Any], job: dict[str, Any], device: str) -> Row:
    """The row of a job before anything is measured."""
    return Row.from_json({
        **row, "latency_ms": NOTHING, "target": job["name"], "batch": job["batch"],
        "threads": job["threads"], "providers": job["providers"], "device": device,
        "quota": job.get("quota"),
    })  # fmt: skip


def _known(row: Row, here: Row | None) -> Row:
    if here is None:
        return row
    return replace(row, model=here.model, command=here.command or row.command)
