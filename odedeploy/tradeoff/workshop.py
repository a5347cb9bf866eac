"""The artefacts of one model: planned once, delivered for every target, and its baseline.

Everything that takes long is put off until it is needed, so that a sweep whose files exist
captures and solves nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from odedeploy import metrics
from odedeploy.delivery import captured, deliver
from odedeploy.errors import FellShort, OdeDeployError
from odedeploy.frontends import live
from odedeploy.frontends.loading import Loaded
from odedeploy.graph import OdeGraph
from odedeploy.manifest import ErrorReport, Manifest
from odedeploy.planned import Planned
from odedeploy.planning import plan_splits
from odedeploy.profiling.queries import cut
from odedeploy.reference import Reference
from odedeploy.reference import solve as solve_reference
from odedeploy.search import Splits, split
from odedeploy.spec import ExportSpec
from odedeploy.tradeoff.clock import Clock
from odedeploy.tradeoff.request import fingerprint
from odedeploy.tradeoff.shelf import Kept, Shelf

BASELINE_INPUTS = 64
"""Inputs on which the error and the evaluations of the adaptive solve are taken."""


class Workshop:
    """One model; ``strictest`` is the request at the smallest tolerance of the sweep."""

    def __init__(self, model: Loaded, strictest: ExportSpec, folder: Path, clock: Clock) -> None:
        self.model, self._strictest, self._clock = model, strictest, clock
        self._failed: OdeDeployError | None = None
        self._shelf = Shelf(folder, fingerprint(model), strictest.tol)

    @cached_property
    def splits(self) -> Splits:
        return split(self.model.inputs, self._strictest, self.model.static)

    @cached_property
    def _prepared(self) -> tuple[OdeGraph, Reference]:
        """The captured graph and the solve of all inputs in use."""
        if self._failed is not None:
            raise self._failed
        try:
            with self._clock.step("prepare", self.model.name) as progress:
                graph = captured(self.model, self._strictest, progress)
                reference = solve_reference(
                    live(graph), graph.sites, self.splits.inputs, metrics.of(self._strictest),
                    progress, self.splits.static,
                )  # fmt: skip
        except OdeDeployError as error:
            self._failed = error
            raise
        return graph, reference

    @property
    def graph(self) -> OdeGraph:
        return self._prepared[0]

    @property
    def reference(self) -> Reference:
        return self._prepared[1]

    def planned(self, spec: ExportSpec) -> Planned:
        """The plan of ``spec``, searched for once whatever the format and target.

        Raises FellShort for a tolerance that no plan keeps, and what planning raises.
        """
        kept = self._shelf.find(spec)
        if kept is None:
            kept = self._searched(spec)
        else:
            self._clock.skip("plan")
        if kept.search is None:
            raise FellShort(kept.reason)
        if not (kept.search.certified or spec.best_effort):
            raise FellShort(kept.search.promise)
        return kept.planned(self.graph, spec, self.splits, self.reference)

    def _searched(self, spec: ExportSpec) -> Kept:
        graph, reference = self._prepared
        what = f"{self.model.name} at {spec.tol:g} {spec.precision} {spec.form}"
        with self._clock.step("plan", what) as progress:
            try:
                kept = Kept.of(
                    plan_splits(
                        graph, live(graph), self.splits, spec, reference, progress,
                        self._whole(spec),
                    )
                )  # fmt: skip
            except FellShort as error:
                kept = Kept(None, spec.precision, reason=str(error))
        self._shelf.keep(spec, kept)
        return kept

    def _whole(self, spec: ExportSpec) -> Planned | None:
        """The plan in fp32 of a request in a lower precision, where it was searched for before."""
        fp32 = replace(spec, precision="fp32")
        kept = None if fp32 == spec or spec.form == "adaptive" else self._shelf.find(fp32)
        if kept is None or kept.search is None:
            return None
        return kept.planned(self.graph, fp32, self.splits, self.reference)

    def delivered(self, spec: ExportSpec, path: Path) -> Manifest:
        """The artefact of ``spec`` in ``path``; raises as ``planned`` and ``deliver`` do."""
        planned = self.planned(spec)
        with self._clock.step("deliver", path.name) as progress:
            return deliver(self.graph, planned, path, progress)

    @cached_property
    def solver(self) -> str:
        """What its author solves with."""
        return ", ".join(dict.fromkeys(site.method for site in self.graph.sites)) or "none"

    @cached_property
    def as_written(self) -> tuple[ErrorReport, int]:
        """Error of the model as its author wrote it, and evaluations of one inference."""
        certify, static = self.splits.certify, self.splits.static
        rows = min(BASELINE_INPUTS, len(certify))
        inputs = {n: a if n in static else a[:rows] for n, a in certify.inputs.items()}
        outcome, evaluations = live(self.graph).as_written(inputs)
        found = self.reference.errors(outcome, certify.rows[:rows])
        report = ErrorReport(None, float(found.max()), float(np.median(found)), 1.0, 0.0, rows)
        return report, round(evaluations)

    def queries(self, batch: int) -> list[dict[str, np.ndarray]]:
        """Inferences of ``batch`` of the inputs that nothing was chosen by."""
        return cut(self.splits.certify.inputs, self.splits.static, batch)
