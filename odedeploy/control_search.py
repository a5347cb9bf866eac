"""The loosest step-size control that keeps the tolerance, and the proof that it does."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from odedeploy import formats, metrics
from odedeploy.errors import BadInput
from odedeploy.graph import OdeGraph
from odedeploy.program import Control, Plan
from odedeploy.reference import SHARE, Progress, Reference, silent, take
from odedeploy.search import (
    Candidate,
    Search,
    Split,
    Splits,
    Tested,
    judge,
    order,
    promise,
    quantile,
    shortfall,
)
from odedeploy.spec import ExportSpec
from odedeploy.step_control import Asked, Trial, cost, errors_of, trials

LOOSEST, TIGHTEST = 64.0, 1e-3
"""Tolerances of a step that are tried, in units of the tolerance of the answer, each half of the
one before."""

MOST = 0.1
"""Tolerance of a step above which it controls nothing."""

COUNTED = 1e-2
"""What stands for the tolerance of the answer where that is a share of inputs."""

LEAST = 1e-6
"""Tolerance of a step below which float32 does not resolve its error."""

SCREEN = 64
"""Inputs of fit on which a tolerance is tried first."""

RANKED = 5
"""Most tolerances that are tried on all of fit and validate once one of them keeps the target."""

SAFE = 0.5
"""Share of the target below which the tightest is safe enough."""

KIND = "adaptive"

SOLVER = "dopri5"


def search_control(
    graph: OdeGraph,
    spec: ExportSpec,
    splits: Splits,
    reference: Reference,
    progress: Progress = silent,
) -> Search:
    """The control with the fewest evaluations whose error is certified to keep ``spec.tol``.

    One file is written and asked for ever tighter tolerances, in onnxruntime. They are screened on
    a part of fit, ranked on fit and validate, and tested on certify from the tightest to the
    loosest, stopping at the first failure; the last that passed is chosen. An input that does not
    converge has an infinite error. Steps that a batch shares count as the worse of the input alone
    and in a batch.

    Raises BadInput for a solver that is no embedded pair, a metric of states, which the file does
    not give, and a model that the form cannot hold.
    """
    if metrics.of(spec).of_states:
        raise BadInput(
            f"--metric {spec.metric} reads the final states, which the form 'adaptive' does not "
            "give; take output, or a function of the outputs."
        )
    method = SOLVER if spec.solver in ("auto", "classical") else spec.solver
    kept = tuple(site.kept for site in graph.sites if site.kept is not None)
    plan = Plan(kept, control=Control(solver=method, per_sample=spec.per_sample))
    form = formats.find(spec.format)
    with tempfile.TemporaryDirectory(prefix="odedeploy-") as folder:
        path = Path(folder) / f"control{form.suffix}"
        form.build(graph, plan, spec.form).write(path, {})
        return _Search(plan, form.open(path), spec, splits, reference, progress).found()


class _Search:
    """One search over one file."""

    def __init__(
        self, plan: Plan, runner: formats.Runner, spec: ExportSpec, splits: Splits,
        reference: Reference, progress: Progress,
    ) -> None:
        self.plan, self.runner, self.spec, self.splits = plan, runner, spec, splits
        self.metric, self.progress = metrics.of(spec), progress
        self.reference = replace(reference, metric=self.metric)
        self.target = (1 - SHARE) * self.metric.limit

    def found(self) -> Search:
        ranked = list(self._ranked())
        sequence = order(ranked, self.target, SAFE)
        tested = list(self._tested(sequence))
        passed = [t.candidate for t in tested if t.passed]
        best = (
            passed[-1] if passed
            else tested[0].candidate if tested
            else min(ranked, key=lambda c: c.error)
        )  # fmt: skip
        said = (
            promise(self.metric, len(self.splits.certify), self.spec.confidence)
            if passed
            else self._missed(best, tested)
        )
        ranked.sort(key=lambda c: c.price)
        return Search(best, bool(passed), said, tuple(ranked), tuple(tested))

    def _ranked(self) -> Iterator[Candidate]:
        """Candidates from loose to tight, up to a safe one; the tightest when none keeps the
        target on the screen."""
        few = self._few()
        deadline = time.monotonic() + (self.spec.budget or np.inf)
        tolerances = self._tolerances()
        ranked = kept = 0
        for done, tolerance in enumerate(tolerances, start=1):
            self.progress("search", done, len(tolerances))
            last = done == len(tolerances)
            errors, _ = self._errors(tolerance, few)
            if quantile(errors, self.metric.coverage) > self.target and not (last and not ranked):
                continue
            candidate = self._candidate(tolerance)
            yield candidate
            ranked += 1
            kept += candidate.error <= self.target
            if candidate.worst <= SAFE * self.target or kept == RANKED:
                return
            if kept and time.monotonic() > deadline:
                return

    def _tolerances(self) -> list[float]:
        tol = COUNTED if self.metric.counts else self.spec.tol
        tolerance, chosen = min(LOOSEST * tol, MOST), list[float]()
        least = max(TIGHTEST * tol, LEAST)
        while tolerance > least:
            chosen.append(tolerance)
            tolerance /= 2
        return [*chosen, least]

    def _few(self) -> Split:
        fit = self.splits.fit
        rows = np.arange(min(SCREEN, len(fit)))
        return Split(fit.rows[rows], take(fit.inputs, rows, self.splits.static))

    def _candidate(self, tolerance: float) -> Candidate:
        fit, validate = self.splits.fit, self.splits.validate
        fitted, tried = self._errors(tolerance, fit)
        validated, _ = self._errors(tolerance, validate)
        assert self.plan.control is not None
        control, coverage = self.plan.control, self.metric.coverage
        mean = cost(tried)["mean"]
        return Candidate(
            replace(self.plan, control=replace(control, tolerance=tolerance)),
            control.solver,
            round(mean),
            quantile(fitted, coverage),
            quantile(validated, coverage),
            float(max(fitted.max(), validated.max())),
            KIND,
            mean,
        )

    def _errors(self, tolerance: float, split: Split) -> tuple[np.ndarray, list[Trial]]:
        assert self.plan.control is not None
        tried = trials(Asked(self.runner, tolerance), self.plan.control, split.inputs)
        return errors_of(tried, self.reference, split.rows), tried

    def _tested(self, sequence: list[Candidate]) -> Iterator[Tested]:
        """Fixed-sequence testing: certificates up to and including the first failure."""
        for done, candidate in enumerate(sequence, start=1):
            assert candidate.plan.control is not None
            errors, _ = self._errors(candidate.plan.control.tolerance, self.splits.certify)
            certificate = judge(errors, self.target, self.metric.coverage, self.spec.confidence)
            tested = Tested(candidate, certificate, excess=np.inf)
            self.progress("certify", done, len(sequence) if tested.passed else done)
            yield tested
            if not tested.passed:
                return

    def _missed(self, best: Candidate, tested: list[Tested]) -> str:
        reached = (
            shortfall(self.metric, tested[0].certificate) if tested
            else f"reaches an error of {best.error:.3g} on the ranking inputs, above "
            f"{self.target:g}, which is the tolerance less the share of the reference"
        )  # fmt: skip
        assert best.plan.control is not None
        return (
            f"Nothing is promised: the best step-size control ({best.solver}, rtol = atol = "
            f"{best.plan.control.tolerance:.3g}) {reached}."
        )
