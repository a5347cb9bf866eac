"""The drift alarm: fitted on the slopes of a plan, thresholded, and tried on inputs led astray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
from scipy import stats

from odedeploy import metrics
from odedeploy.errors import BadInput
from odedeploy.graph import Inputs, OdeGraph, Outcome
from odedeploy.program import Alarm, Evaluate, Plan, Residual
from odedeploy.reference import Progress, Reference, silent
from odedeploy.search.astray import PERTURBATIONS, Detection, led_astray, resolved_plan
from odedeploy.search.certificate import order_statistic
from odedeploy.search.contrasts import contrasts, noise
from odedeploy.search.splits import Fit, Split, Splits, Validate
from odedeploy.spec import ExportSpec
from odedeploy.tolerance import floor_of, worst_error

SLOPES = 4
"""Most slopes of one solve that are watched, evenly placed: with more of them the regression gains
little on inputs like those of the fit, and detects less of those that are not."""

FALSE_ALARMS = 0.01
"""Share of inputs like the calibration inputs that may raise the alarm."""

ROUND_OFF = 1e-3
"""By how much the threshold is raised, so that a runtime's round-off raises no alarm."""

LEAST_ERROR = 1e-6
"""Smaller errors are round-off and teach nothing."""

class Watchable(Protocol):
    """An evaluator that gives account of the slopes."""

    def run(self, plan: Plan, inputs: Inputs, precision: str) -> Outcome: ...
    def state_axes(self) -> list[tuple[int | None, ...]]: ...
    def grams(self, plan: Plan, inputs: Inputs) -> list[list[np.ndarray]]: ...


@dataclass(frozen=True)
class FalseAlarms:
    """Alarms on the certification inputs: the share seen, and the share that inputs like them do
    not exceed with ``confidence``, an exact binomial bound."""

    rate: float
    bound: float
    confidence: float
    samples: int


@dataclass(frozen=True)
class Watched:
    """A plan with its alarm, and what is known of it.

    ``threshold`` is that of the fitted combination; the output is divided by it. ``spearman`` is
    the rank correlation of alarm and error over the certification inputs, None where undefined.
    """

    plan: Plan
    threshold: float
    false_alarm: FalseAlarms
    detection: tuple[Detection, ...]
    spearman: float | None

    def to_json(self) -> dict[str, Any]:
        """The manifest's entry, in plain JSON values."""
        assert self.plan.alarm is not None
        return {
            "output": self.plan.alarm.output,
            "threshold": self.threshold,
            "false_alarm": asdict(self.false_alarm),
            "detection": [asdict(found) for found in self.detection],
            "spearman": self.spearman,
        }


def watch_plan(
    evaluator: Watchable,
    graph: OdeGraph,
    plan: Plan,
    splits: Splits,
    reference: Reference,
    spec: ExportSpec,
    progress: Progress = silent,
) -> Watched:
    """``plan`` with an alarm: fitted on fit, chosen on validate, thresholded on certify.

    Raises BadInput when no state has a batch axis or the plan gives no two slopes to compare.
    """
    stages = 1 + len(PERTURBATIONS)
    progress("alarm", 0, stages)
    trial = _Trial(evaluator, reference)
    template = replace(plan, alarm=_template(evaluator, plan, unused_name(graph)))
    alarm, least = _fitted(trial, template, splits.fit, splits.validate, spec.seed)
    values, errors = trial(replace(plan, alarm=alarm), splits.certify)
    threshold, false_alarm = threshold_of(values, least, spec.confidence)
    watched = replace(plan, alarm=alarm.scaled(1 / threshold))
    resolved = resolved_plan(graph, reference)
    detection = []
    for done, (kind, size) in enumerate(PERTURBATIONS, start=1):
        progress("alarm", done, stages)
        inputs = led_astray(splits, kind, size, spec.seed)
        if inputs is not None:
            detection.append(trial.astray(watched, resolved, inputs, kind, size, spec))
    progress("alarm", stages, stages)
    known = np.isfinite(values) & np.isfinite(errors)
    return Watched(
        watched, threshold, false_alarm, tuple(detection), _spearman(values[known], errors[known])
    )


def unused_name(graph: OdeGraph) -> str:
    """``alarm``, with a number behind it when a value of the model is called so."""
    inner = graph.model.graph
    taken = {value.name for value in (*inner.inputs, *inner.initializers.values())}
    taken |= {output.name for node in inner.all_nodes() for output in node.outputs}
    numbered = ("alarm", *(f"alarm_{n}" for n in range(1, len(taken) + 1)))
    return next(name for name in numbered if name not in taken)


@dataclass(frozen=True)
class _Trial:
    """Runs plans on real inputs."""

    evaluator: Watchable
    reference: Reference

    def __call__(self, plan: Plan, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Alarm and error of every input of ``split``; the alarm of a plan without one is zero."""
        truth = {n: a[split.rows] for n, a in self.reference.outcome.outputs.items()}
        outcome, errors = self.compared(plan, split.inputs, truth)
        return next(iter(outcome.monitors.values()), np.zeros(len(errors), np.float32)), errors

    def compared(
        self, plan: Plan, inputs: Inputs, truth: dict[str, np.ndarray]
    ) -> tuple[Outcome, np.ndarray]:
        """Relative errors of the outputs, whatever the metric, since their size is to be told."""
        floors = {name: floor_of(a) for name, a in self.reference.outcome.outputs.items()}
        outcome = self.evaluator.run(plan, inputs, "float32")
        return outcome, worst_error(outcome.outputs, truth, floors)

    def astray(
        self, plan: Plan, resolved: Plan, inputs: Inputs, kind: str, size: float, spec: ExportSpec
    ) -> Detection:
        truth = self.evaluator.run(resolved, inputs, "float64")
        outcome = self.evaluator.run(plan, inputs, "float32")
        metric = metrics.of(spec)
        errors = metric.errors(outcome, truth, metric.floors(self.reference.outcome))
        raised, bad = next(iter(outcome.monitors.values())) > 1, ~(errors <= metric.limit)
        recall = float(raised[bad].mean()) if bad.any() else None
        return Detection(kind, size, float(raised.mean()), float(bad.mean()), recall, len(raised))


def _template(evaluator: Watchable, plan: Plan, name: str) -> Alarm:
    """What is watched, with no combination yet."""
    axes = evaluator.state_axes()
    if all(axis is None for known in axes for axis in known):
        raise BadInput("No state of this model has a batch axis to watch; leave out --alarm.")
    residuals = []
    for solve, known in zip(plan.solves, axes, strict=True):
        slopes = [s.slope for s in solve.program.instructions if isinstance(s, Evaluate)]
        chosen = np.unique(np.linspace(0, len(slopes) - 1, SLOPES).round().astype(int))
        if len(slopes) > 1 and any(axis is not None for axis in known):
            watched, ones = tuple(slopes[i] for i in chosen), (1.0,) * len(known)
            residuals.append(Residual(solve.site, watched, (), ones, known))
    if not residuals:
        raise BadInput(
            "An alarm compares two evaluations of one solve or more, and this plan makes "
            f"{plan.evaluations} in {len(plan.solves)} solve(s); ask for a smaller tolerance or a "
            "larger --nfe, or leave out --alarm."
        )
    return Alarm(name, tuple(residuals))


def _fitted(
    trial: _Trial, template: Plan, fit: Fit, validate: Validate, seed: int
) -> tuple[Alarm, float]:
    """The alarm that tells the error best, and the value below which it is noise."""
    assert template.alarm is not None
    grams = [trial.evaluator.grams(template, part.inputs) for part in (fit, validate)]
    scales = [[_scale(gram) for gram in tensors] for tensors in grams[0]]
    taught = []
    for found, part in zip(grams, (fit, validate), strict=True):
        _, errors = trial(replace(template, alarm=None), part)
        forms = [
            np.sum([s * s * g for s, g in zip(factors, tensors, strict=True)], axis=0)
            for factors, tensors in zip(scales, found, strict=True)
        ]
        traces = np.sum([np.trace(form, axis1=1, axis2=2) for form in forms], axis=0)
        clean = np.isfinite(errors) & np.isfinite(traces) & (traces > 0)
        logs = np.log(np.maximum(errors[clean], LEAST_ERROR))
        taught.append(([form[clean] for form in forms], logs))
    if not len(taught[0][1]):
        raise BadInput(
            "The slopes of this model are zero or not finite on all inputs of the fit, so there is "
            "nothing to watch; leave out --alarm."
        )
    rows = contrasts(taught[0], taught[1] if len(taught[1][1]) else taught[0], seed)
    residuals = [
        _combined(residual, e, factors)
        for residual, e, factors in zip(template.alarm.residuals, rows, scales, strict=True)
    ]
    heard = tuple(residual for residual in residuals if residual.watched)
    return Alarm(template.alarm.output, heard), float(np.median(noise(rows, taught[0][0])))


def _scale(gram: np.ndarray) -> float:
    """One over the typical norm of a slope, 0 where slopes vanish; ``gram`` is (inputs, m, m)."""
    squares = np.trace(gram, axis1=1, axis2=2) / gram.shape[1]
    squares = squares[np.isfinite(squares) & (squares > 0)]
    return float(1 / np.sqrt(np.median(squares))) if len(squares) else 0.0


def _combined(residual: Residual, rows: np.ndarray, factors: Sequence[float]) -> Residual:
    """``residual`` with its rows, and the factors of the states that are watched."""
    remaining = iter(factors)
    scales = tuple(0.0 if axis is None else next(remaining) for axis in residual.axes)
    axes = tuple(a if s else None for a, s in zip(residual.axes, scales, strict=True))
    return replace(residual, rows=tuple(map(tuple, rows.tolist())), scales=scales, axes=axes)


def threshold_of(values: np.ndarray, least: float, confidence: float) -> tuple[float, FalseAlarms]:
    """An order statistic of the alarm on the certification inputs, at least ``least``.

    The bound is that of the order statistic; with too few inputs for ``FALSE_ALARMS`` the largest
    value is taken and the bound says what that is worth.
    """
    n, finite = len(values), values[np.isfinite(values)]
    if not len(finite):
        raise BadInput(
            "The solve leaves the finite numbers on every certification input, so the alarm has no "
            "threshold; leave out --alarm."
        )
    rank = order_statistic(n, 1 - FALSE_ALARMS, confidence) or n
    chosen = min(float(np.sort(values)[rank - 1]), float(finite.max()))
    threshold = max(chosen, least) * (1 + ROUND_OFF)
    raised = int(np.sum(values > threshold))
    exceeded = max(n - rank, raised)
    bound = float(stats.beta.ppf(confidence, exceeded + 1, n - exceeded)) if exceeded < n else 1.0
    return threshold, FalseAlarms(raised / n, bound, confidence, n)


def _spearman(values: np.ndarray, errors: np.ndarray) -> float | None:
    ranks = [stats.rankdata(array) for array in (values, errors)]
    if len(values) < 3 or any(rank.std() == 0 for rank in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])
