"""The reference: a float64 solve so fine that its own error does not count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from odedeploy.errors import BadInput, Diverged
from odedeploy.graph import Evaluator, Inputs, Outcome, Site
from odedeploy.grid import Grid
from odedeploy.metrics import Metric, broken, of
from odedeploy.program import Plan, solve_plan
from odedeploy.solvers import REFERENCE, find
from odedeploy.spec import ExportSpec
from odedeploy.tableau import Method

SHARE = 0.02
"""Part of the metric's limit that the reference's own error may take."""

METHODS = ("dopri5", "ab3_midpoint", REFERENCE)
"""Tried on ``TRIAL`` inputs; the cheapest is used. Kinks in a field, such as those of ReLU, limit
every method to low order, and then many short steps with one evaluation each win over high order.
"""

TRIAL, PILOT = 8, 32
"""Inputs on which methods are tried, and on which the resolution is found."""

BUDGET = 8192
"""Most evaluations of one solve."""

ROWS = 256
"""Inputs between two reports of progress."""

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the work done and the work in all, in units of the stage's own."""


def silent(stage: str, done: int, total: int) -> None:
    """Reports no progress."""


@dataclass(frozen=True)
class Reference:
    """What the model should have answered.

    ``outcome`` holds all inputs in float64, and of the states those whose first axis is the batch.
    ``self_check`` is the largest error of any input, by the metric it was solved for, between its
    last two resolutions. ``metric`` is what errors are taken by. ``method`` is the solver,
    ``"kept"`` when every solve is a fixed-step call, and ``evaluations`` the most that the model's
    solves took together.
    """

    outcome: Outcome
    self_check: float
    method: str
    evaluations: int
    metric: Metric

    @cached_property
    def floors(self) -> Mapping[str, float]:
        """Least denominators of the metric's relative errors, by name, over all inputs."""
        return self.metric.floors(self.outcome)

    def errors(self, found: Outcome, rows: np.ndarray) -> np.ndarray:
        """Error of every input, shape (n,), of what was ``found`` on ``rows`` of the inputs."""
        return self.metric.errors(found, _rows(self.outcome, rows), self.floors)


def solve(
    evaluator: Evaluator,
    sites: Sequence[Site],
    inputs: Inputs,
    metric: Metric | float,
    progress: Progress = silent,
    static: frozenset[str] = frozenset(),
) -> Reference:
    """Solve every input in float64 until two resolutions agree to ``SHARE`` of the metric's limit.

    A number stands for the relative error of the outputs with that tolerance.

    A resolution splits every step of a coarse grid through a site's output times into equal parts;
    the next one has twice as many. ``PILOT`` inputs are solved at ever finer resolutions until each
    has agreed twice in a row, by each of ``METHODS``; that tells the method and the resolution from
    which all inputs cost least. Every input is then solved at that resolution and the one below; an
    input whose two solves differ by more than allowed is solved again at the next resolution and
    compared with the one before, and so on. The finest solve of an input is returned, so
    ``self_check`` covers every input. Kept sites run their kept plan at every resolution. Inputs
    named in ``static`` have no batch axis.

    Raises Diverged when an input leaves the finite numbers, and BadInput when ``BUDGET``
    evaluations do not resolve it or an output's first axis is not the batch.
    """
    n = batch_size(inputs, static)
    judged = metric if isinstance(metric, Metric) else of(ExportSpec(tol=metric))
    run = _Runs(evaluator, sites, inputs, static, progress, judged)
    if all(site.kept is not None for site in sites):
        return _kept(run, n)
    method, resolution = _pilot(run, n)
    return _settle(run, n, method, resolution)


def _kept(run: _Runs, n: int) -> Reference:
    plan = Plan(tuple(site.kept for site in run.sites if site.kept is not None))
    outcome = run(plan, np.arange(n))
    lost = broken(outcome.outputs)
    if lost.any():
        raise Diverged(_divergence(lost.nonzero()[0], n, plan.evaluations))
    run.metric.errors(outcome, outcome, run.metric.floors(outcome))
    return Reference(outcome, 0.0, "kept", plan.evaluations, run.metric)


def _pilot(run: _Runs, n: int) -> tuple[Method, int]:
    """The method and first resolution that solve all inputs at the least cost, judged by a few.

    A trial on very few tells the methods apart, and the best that solves the pilot is taken.
    """
    rows = np.unique(np.linspace(0, n - 1, min(n, PILOT)).astype(int))
    few = rows[:: max(1, len(rows) // TRIAL)]
    able, failed, limit = list[_Attempt](), list[_Attempt](), BUDGET
    for method in map(find, METHODS):
        attempt = _Attempt(method)
        if attempt.climb(run, few, limit):
            able.append(attempt)
            limit = min(limit, attempt.evaluations[-1])
        else:
            failed.append(attempt)
    if able and len(few) < len(rows):
        trials, able, failed = able, [], []
        for trial in sorted(trials, key=lambda trial: min(trial.starts())):
            attempt = _Attempt(trial.method)
            if attempt.climb(run, rows, BUDGET):
                able.append(attempt)
                break
            failed.append(attempt)
    if not able:
        raise min(failed, key=lambda attempt: attempt.difference).error(n, run.metric.limit)
    best = min(able, key=lambda attempt: min(attempt.starts()))
    return best.method, min(best.starts())[1]


def _settle(run: _Runs, n: int, method: Method, resolution: int) -> Reference:
    """Solve every input, those that do not agree at ever finer resolutions."""
    pending = np.arange(n)
    first, second = run.plan(method, resolution // 2), run.plan(method, resolution)
    run.expected = run.done + n * (first.evaluations + second.evaluations)
    before = run(first, pending)
    settled: Outcome | None = None
    floors: Mapping[str, float] | None = None
    self_check = 0.0
    while True:
        plan = run.plan(method, resolution)
        outcome = run(plan, pending)
        floors = run.metric.floors(outcome) if floors is None else floors
        difference = run.metric.resolved(before, outcome, floors)
        settled = _merged(settled, outcome, pending)
        agrees = difference <= run.allowed
        self_check = max(self_check, float(np.max(difference[agrees], initial=0.0)))
        if agrees.all():
            return Reference(settled, self_check, method.name, plan.evaluations, run.metric)
        resolution *= 2
        if not run.affordable(method, resolution, BUDGET):
            attempt = _Attempt(method)
            attempt.note(outcome, difference, pending, plan.evaluations)
            raise attempt.error(n, run.metric.limit)
        before, pending = _rows(outcome, ~agrees), pending[~agrees]


class _Runs:
    """Runs plans on rows of the inputs in float64, in batches, and reports progress."""

    def __init__(
        self,
        evaluator: Evaluator,
        sites: Sequence[Site],
        inputs: Inputs,
        static: frozenset[str],
        progress: Progress,
        metric: Metric,
    ) -> None:
        self.evaluator, self.sites, self.inputs = evaluator, sites, inputs
        self.static, self.progress, self.metric = static, progress, metric
        self.allowed = SHARE * metric.limit
        self.done = self.expected = 0

    def __call__(self, plan: Plan, rows: np.ndarray) -> Outcome:
        parts = []
        for first in range(0, len(rows), ROWS):
            part = rows[first : first + ROWS]
            outcome = self.evaluator.run(plan, take(self.inputs, part, self.static), "float64")
            for name, array in outcome.outputs.items():
                if array.shape[:1] != part.shape:
                    raise BadInput(
                        f"Output {name!r} has shape {array.shape} for {len(part)} inputs; "
                        "return outputs whose first axis is the batch."
                    )
            states = {k: a for k, a in outcome.states.items() if a.shape[:1] == part.shape}
            parts.append(Outcome(outcome.outputs, states))
            self.done += len(part) * plan.evaluations
            remaining = (len(rows) - first - len(part)) * plan.evaluations
            total = max(self.expected, self.done + remaining)
            self.progress("reference", self.done, total)
        return Outcome(
            _concatenated([p.outputs for p in parts]), _concatenated([p.states for p in parts])
        )

    def plan(self, method: Method, resolution: int) -> Plan:
        return Plan(
            tuple(
                site.kept or solve_plan(site.name, method, _refined(site.times, resolution))
                for site in self.sites
            )
        )

    def affordable(self, method: Method, resolution: int, limit: int) -> bool:
        """Whether no solve takes more than ``limit`` evaluations; three resolutions always are."""
        steps = max(_refined(s.times, resolution).steps for s in self.sites if s.kept is None)
        return resolution <= 4 or method.evaluations(steps) <= limit


class _Attempt:
    """One method at ever finer resolutions, and how far it came.

    ``evaluations[i]`` were spent on an input at resolution 2^i, and ``unresolved[i]`` is the share
    of inputs that had not agreed by then; an agreement counts once the next one confirms it.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.evaluations: list[int] = []
        self.unresolved: list[float] = []
        self.difference = np.inf
        self.broken = np.empty(0, dtype=int)

    def climb(self, run: _Runs, rows: np.ndarray, limit: int) -> bool:
        """Whether all ``rows`` are resolved within ``limit`` evaluations of one solve.

        Gives up when four doublings leave an input outside the finite numbers: an explicit method
        that overflows for so long on a merely stiff field is unstable over the whole budget.
        """
        active, agreed = rows, np.zeros(len(rows), dtype=bool)
        before: Outcome | None = None
        floors: Mapping[str, float] = {}
        resolution = overflows = 1
        while overflows <= 5 and run.affordable(self.method, resolution, limit):
            plan = run.plan(self.method, resolution)
            outcome = run(plan, active)
            if len(active) == len(rows):
                floors = run.metric.floors(outcome)
            difference = np.full(len(active), np.inf)
            if before is not None:
                difference = run.metric.resolved(before, outcome, floors)
            self.note(outcome, difference, active, plan.evaluations)
            agrees = difference <= run.allowed
            open_ = ~(agreed & agrees)
            active, agreed, before = active[open_], agrees[open_], _rows(outcome, open_)
            if resolution > 1:
                self.unresolved.append(len(active) / len(rows))
            if not active.size:
                return True
            overflows = overflows + 1 if self.broken.size else 1
            resolution *= 2
        return False

    def starts(self) -> list[tuple[float, int]]:
        """Mean evaluations of an input, and the resolution at which to start for that.

        Starting at 2^i costs the resolutions 2^(i − 1) and 2^i, and every doubling after that for
        the inputs that are not resolved before.
        """
        spent, missing = self.evaluations, self.unresolved
        return [
            (
                spent[i - 1]
                + spent[i]
                + sum(spent[j] * missing[j - 1] for j in range(i + 1, len(missing))),
                2**i,
            )
            for i in range(1, len(missing))
        ]

    def note(
        self, outcome: Outcome, difference: np.ndarray, rows: np.ndarray, evaluations: int
    ) -> None:
        """Remember what was reached last."""
        self.difference = float(difference.max())
        self.evaluations.append(evaluations)
        self.broken = rows[broken(outcome.outputs)]

    def error(self, n: int, tol: float) -> BadInput:
        if self.broken.size:
            return Diverged(_divergence(self.broken, n, self.evaluations[-1]))
        return BadInput(
            f"The solve could not be resolved to {SHARE:.0%} of the tolerance {tol:g}: at "
            f"{self.evaluations[-1]} evaluations of {self.method.name} two resolutions still "
            f"differ by {self.difference:.2g}; the vector field is stiff or discontinuous, or the "
            "tolerance is too small, so choose a larger one."
        )


def batch_size(inputs: Inputs, static: frozenset[str] = frozenset()) -> int:
    """Common length of the first axis of all arrays that are not ``static``.

    Raises BadInput when lengths differ, an array has no first axis, or none has a batch.
    """
    sizes: dict[str, int] = {}
    for name, array in inputs.items():
        if name in static:
            continue
        if np.ndim(array) == 0:
            raise BadInput(f"Input {name!r} has no batch axis; give it one, or name it static.")
        sizes[name] = len(array)
    if not sizes or min(sizes.values()) == 0:
        raise BadInput(f"At least one input needs a batch of one or more rows, got sizes {sizes}.")
    if len(set(sizes.values())) > 1:
        raise BadInput(f"Inputs have different batch sizes {sizes}; give every input as many rows.")
    return next(iter(sizes.values()))


def take(inputs: Inputs, rows: np.ndarray, static: frozenset[str] = frozenset()) -> Inputs:
    """``rows`` of every input; those in ``static`` whole."""
    return {k: a if k in static else np.asarray(a)[rows] for k, a in inputs.items()}


def _refined(times: Sequence[float], resolution: int) -> Grid:
    """Two steps or one an output interval, each split into ``resolution`` equal steps."""
    coarse = Grid.through(times, 2)
    fine = [coarse.times[0]]
    for a, b in zip(coarse.times, coarse.times[1:], strict=False):
        fine += [a + (b - a) * k / resolution for k in range(1, resolution)] + [b]
    return Grid(tuple(fine), tuple(i * resolution for i in coarse.outputs))


def _divergence(rows: np.ndarray, n: int, evaluations: int) -> str:
    return (
        f"The solve leaves the finite numbers for {len(rows)} inputs of {n}, the first in row "
        f"{rows[0]}, even with {evaluations} evaluations; remove these inputs or check the model."
    )


def _concatenated(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows(outcome: Outcome, which: np.ndarray) -> Outcome:
    return Outcome(*({name: array[which] for name, array in part.items()} for part in outcome))


def _merged(whole: Outcome | None, part: Outcome, rows: np.ndarray) -> Outcome:
    if whole is None:
        return part
    for kind, arrays in zip(whole, part, strict=True):
        for name, array in arrays.items():
            kind[name][rows] = array
    return whole
