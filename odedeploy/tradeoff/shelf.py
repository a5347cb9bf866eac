"""Plans that were searched for, kept on disk so that none is searched for twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from odedeploy import files
from odedeploy._version import __version__
from odedeploy.errors import BadInput
from odedeploy.graph import OdeGraph
from odedeploy.planned import Planned
from odedeploy.planning import calibrated
from odedeploy.program import Plan
from odedeploy.reference import Reference
from odedeploy.search import Candidate, Certificate, Search, Splits, Tested
from odedeploy.spec import ExportSpec

FOLDER = "plans"


@dataclass(frozen=True)
class Kept:
    """A search and the precision that it ended in; without a search, why there is none."""

    search: Search | None
    precision: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    reason: str = ""

    @classmethod
    def of(cls, planned: Planned) -> Kept:
        return cls(
            planned.search, planned.spec.precision, planned.seconds, planned.notes,
            planned.warnings,
        )  # fmt: skip

    def planned(
        self, graph: OdeGraph, spec: ExportSpec, splits: Splits, reference: Reference
    ) -> Planned:
        """The plan again, on its way to a file of ``spec``."""
        assert self.search is not None
        lower = self.precision != "fp32"
        return Planned(
            replace(spec, precision=self.precision), splits, reference, self.search, self.seconds,
            calibrated(self.precision, graph, splits) if lower else None, self.notes,
            self.warnings,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        found = None if self.search is None else _search_to_json(self.search)
        return {**vars(self), "search": found, "warnings": list(self.warnings)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Kept:
        """Raises KeyError, TypeError, IndexError or BadInput for what ``to_json`` did not write."""
        found = None if data["search"] is None else _search_from_json(data["search"])
        warnings = tuple(map(str, data["warnings"]))
        return cls(**{**data, "search": found, "warnings": warnings})


class Shelf:
    """The plans in a folder, one file each, named by what was asked.

    ``of`` identifies the model with its weights and inputs, ``strictest`` is the tolerance that
    its reference serves. A plan is the same whatever the format; it was chosen on the target that
    asked for it first.
    """

    def __init__(self, folder: Path, of: str, strictest: float) -> None:
        self._folder, self._of, self._strictest = folder / FOLDER, of, strictest

    def find(self, spec: ExportSpec) -> Kept | None:
        """None where it was never searched for, or what is there cannot be read."""
        try:
            return Kept.from_json(json.loads(self._path(spec).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, IndexError, BadInput):
            return None

    def keep(self, spec: ExportSpec, kept: Kept) -> None:
        """Raises BadInput when it cannot be written."""
        self._folder.mkdir(exist_ok=True)
        files.replace(self._path(spec), json.dumps(kept.to_json()).encode())

    def _path(self, spec: ExportSpec) -> Path:
        asked = {k: v for k, v in asdict(spec).items() if k not in ("format", "target")}
        key = json.dumps([self._of, self._strictest, __version__, asked], sort_keys=True)
        name = f"{spec.tol:g}-{spec.precision}-{spec.form}"
        return self._folder / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _search_to_json(search: Search) -> dict[str, Any]:
    tested = [t.candidate for t in search.sequence]
    best = next((i for i, c in enumerate(tested) if c is search.best), None)
    return {
        "certified": search.certified,
        "promise": search.promise,
        "candidates": [_candidate_to_json(c) for c in search.candidates],
        "sequence": [
            [_candidate_to_json(t.candidate), asdict(t.certificate), t.excess]
            for t in search.sequence
        ],
        "tested_best": best,
        "best": _candidate_to_json(search.best),
    }


def _search_from_json(data: Mapping[str, Any]) -> Search:
    sequence = tuple(
        Tested(_candidate_from_json(candidate), Certificate(**certificate), float(excess))
        for candidate, certificate, excess in data["sequence"]
    )
    place = data["tested_best"]
    best = _candidate_from_json(data["best"]) if place is None else sequence[place].candidate
    candidates = tuple(map(_candidate_from_json, data["candidates"]))
    return Search(best, bool(data["certified"]), str(data["promise"]), candidates, sequence)


def _candidate_to_json(candidate: Candidate) -> dict[str, Any]:
    return {**vars(candidate), "plan": candidate.plan.to_json()}


def _candidate_from_json(data: Mapping[str, Any]) -> Candidate:
    return Candidate(**{**data, "plan": Plan.from_json(data["plan"])})
