"""Plans in the precision that they will run in, and the choice of that precision by latency."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from odedeploy import formats, precision
from odedeploy.control_search import search_control
from odedeploy.delivery import built
from odedeploy.errors import FellShort, OdeDeployError, Unusable
from odedeploy.evaluator import OnnxEvaluator
from odedeploy.formats import Runner
from odedeploy.graph import Evaluator, Inputs, OdeGraph, Outcome
from odedeploy.latency import measured, ratio
from odedeploy.planned import Planned, Progress, Stopwatch, silent
from odedeploy.program import Plan
from odedeploy.reference import Reference, take
from odedeploy.search import Search, Splits, search
from odedeploy.spec import ExportSpec
from odedeploy.targets import find as find_target
from odedeploy.targets import usable
from odedeploy.tolerance import worst_error

AUTO = ("int8", "fp16")
"""Precisions that compete with fp32."""

GAIN = 0.97
"""Share of the fp32 latency that a lower precision must stay below to take its place."""

STEPS = 2.0
"""A plan in a lower precision may take this multiple of the evaluations of the one in fp32."""


@dataclass(frozen=True)
class Contender:
    """How one precision did; ``ratio`` is latency over that of fp32, measured in turn."""

    precision: str
    verdict: str
    ratio: float | None = None
    quantisation_error: float | None = None
    solver: str | None = None
    nfe: int | None = None


def plan_splits(
    graph: OdeGraph,
    evaluator: Evaluator,
    splits: Splits,
    spec: ExportSpec,
    reference: Reference,
    progress: Progress = silent,
    whole: Planned | None = None,
) -> Planned:
    """The cheapest certified plan in the precision of ``spec``.

    ``evaluator`` runs plans in float32, and ``reference`` is the solve of ``splits.inputs``. A
    lower precision is searched for in that precision: every candidate is lowered, calibrated on a
    part of fit, and run in onnxruntime. ``"auto"`` takes the precision of the lowest latency on
    ``spec.target``. For the adaptive form it is the loosest step-size control that is sought.
    ``whole`` is the plan of the same request in fp32, where it is known.

    Raises BadInput for a model without this precision, Unusable where onnxruntime cannot run it,
    and FellShort when the precision alone breaks the tolerance.
    """
    watch = Stopwatch()
    if spec.form == "adaptive":
        with watch("search"):
            found = search_control(graph, spec, splits, reference, progress)
        return Planned(spec, splits, reference, found, watch.seconds)
    if whole is None:
        with watch("search"):
            timed = usable(find_target(spec.target)) is None
            costs = measured(graph, spec, splits.fit.inputs, splits.static) if timed else None
            found = search(evaluator, graph.sites, spec, splits, reference, progress, costs)
        fp32 = replace(spec, precision="fp32")
        whole = Planned(fp32, splits, reference, found, watch.seconds)
    if spec.precision == "fp32" or not (whole.search.certified or spec.best_effort):
        return whole
    with watch("precision"):
        race = _Race(graph, evaluator, whole, progress)
        result = race.auto() if spec.precision == "auto" else race.lowered(spec.precision)
    return replace(result, seconds=watch.seconds)


def calibrated(name: str, graph: OdeGraph, splits: Splits) -> precision.Transform:
    """What writes a lowered model in precision ``name``, calibrated on a part of fit."""
    rows = np.arange(min(precision.ROWS, len(splits.fit)))
    return precision.transform(name, graph, take(splits.fit.inputs, rows, splits.static))


class _Race:
    """Precisions of one request against ``whole``, its plan in fp32."""

    def __init__(
        self, graph: OdeGraph, evaluator: Evaluator, whole: Planned, progress: Progress
    ) -> None:
        self._graph, self._evaluator, self._whole = graph, evaluator, whole
        self._progress = progress
        fit, splits = whole.splits.fit, whole.splits
        self._single = take(fit.inputs, np.arange(1), splits.static)

    def lowered(self, name: str) -> Planned:
        """The cheapest certified plan in precision ``name``."""
        planned, moved = self._same_plan(name)
        self._check(name, moved)
        most = STEPS * self._whole.search.best.evaluations
        return self._searched(planned, int(most), {"quantisation_of_the_fp32_plan": moved})

    def auto(self) -> Planned:
        """fp32, or a lower precision that keeps the tolerance and is faster."""
        contenders, chosen, best = list[Contender](), self._whole, 1.0
        for name in AUTO:
            contender, planned = self._contend(name, best)
            contenders.append(contender)
            if planned is not None and contender.ratio is not None:
                chosen, best = planned, contender.ratio
        fp32 = Contender(
            "fp32",
            "fastest" if chosen is self._whole else "slower",
            1.0,
            0.0,
            self._whole.search.best.solver,
            self._whole.search.best.evaluations,
        )
        notes = {**chosen.notes, "contenders": [asdict(c) for c in (fp32, *contenders)]}
        return replace(chosen, notes=notes)

    def _contend(self, name: str, best: float) -> tuple[Contender, Planned | None]:
        """What became of precision ``name``, and its plan when it beats the ratio ``best``.

        A lower precision never needs fewer evaluations, so the plan of fp32 tells first whether
        it can be faster, and how many evaluations it may take and still be.
        """
        try:
            same, moved = self._same_plan(name)
            self._check(name, moved)
            ratio = self._ratio(same)
            if ratio >= GAIN * best:
                verdict = f"not faster: the same plan takes {ratio:.2f} of the time of fp32"
                return Contender(name, verdict, ratio, moved), None
            most = int(self._whole.search.best.evaluations * GAIN * best / ratio)
            planned = self._searched(same, most, {})
            if not planned.search.certified:
                verdict = "no plan that would be faster keeps the tolerance"
                return Contender(name, verdict, ratio, moved), None
            ratio = self._ratio(planned)
        except OdeDeployError as error:
            return Contender(name, str(error)), None
        faster = ratio < GAIN * best
        candidate = planned.search.best
        return Contender(
            name, "faster" if faster else "not faster", ratio, moved, candidate.solver,
            candidate.evaluations,
        ), planned if faster else None  # fmt: skip

    def _same_plan(self, name: str) -> tuple[Planned, float]:
        """The plan of fp32 in precision ``name``, and how far that moves its outputs."""
        transform = calibrated(name, self._graph, self._whole.splits)
        planned = replace(
            self._whole, spec=replace(self._whole.spec, precision=name), transform=transform
        )
        plan, validate = planned.search.plan, planned.splits.validate
        single = self._evaluator.run(plan, validate.inputs, "float32").outputs
        try:
            found = self._lower(planned).run(plan, validate.inputs, "float32").outputs
        except Exception as error:  # onnxruntime's own have no common root
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            reason = str(error).split(" : ")[-1].splitlines()[0]
            raise Unusable(
                f"onnxruntime cannot run {name} here ({reason}); take another precision."
            ) from error
        moved = np.sort(worst_error(found, single))
        rank = int(np.ceil(self._whole.spec.coverage * len(moved) - 1e-9))
        return planned, float(moved[max(rank, 1) - 1])

    def _lower(self, planned: Planned) -> OnnxEvaluator:
        return OnnxEvaluator(self._graph, planned.transform)

    def _check(self, name: str, moved: float) -> None:
        """Steps do not mend what a precision breaks. The metric of outputs alone tells so."""
        spec = self._whole.spec
        if spec.metric == "output" and not spec.best_effort and moved > 2 * spec.tol:
            raise FellShort(
                f"In {name} the plan of fp32 moves its outputs by {moved:.3g}, more than the "
                f"tolerance {spec.tol:g}; take a wider tolerance or another precision."
            )

    def _searched(self, planned: Planned, most: int, notes: Mapping[str, Any]) -> Planned:
        bounded = _Bounded(self._lower(planned), most, planned.reference)
        found: Search = search(
            bounded, self._graph.sites, planned.spec, planned.splits, planned.reference,
            self._progress,
        )  # fmt: skip
        return replace(planned, search=found, notes=dict(notes))

    def _ratio(self, planned: Planned) -> float:
        """Latency of ``planned`` over that of fp32, one input at a time, on the target."""
        with tempfile.TemporaryDirectory(prefix="odedeploy-") as folder:
            low = self._opened(planned, Path(folder) / "low.onnx")
            whole = self._opened(self._whole, Path(folder) / "whole.onnx")
            return ratio(low, whole, self._single)

    def _opened(self, planned: Planned, path: Path) -> Runner:
        form, target = formats.find(planned.spec.format), find_target(planned.spec.target)
        built(form, self._graph, planned).write(path, {})
        return form.open(path, target.threads, target.opening_of(form.name))


class _Bounded:
    """Runs plans of at most ``most`` evaluations; all others answer NaN at once."""

    def __init__(self, inner: Evaluator, most: int, reference: Reference) -> None:
        self._inner, self._most, self._reference = inner, most, reference

    def run(self, plan: Plan, inputs: Inputs, precision: str) -> Outcome:
        if plan.evaluations <= self._most:
            return self._inner.run(plan, inputs, precision)
        rows = max(len(a) for a in inputs.values() if np.ndim(a))
        outcome = self._reference.outcome
        return Outcome(*(
            {n: np.full((rows, *a.shape[1:]), np.nan, np.float32) for n, a in part.items()}
            for part in (outcome.outputs, outcome.states)
        ))  # fmt: skip
