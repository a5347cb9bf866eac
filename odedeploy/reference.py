"""The reference: a float64 solve so fine that its own error does not count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from odedeploy.errors import BadInput, Diverged
from odedeploy.graph import Evaluator, Inputs, Outcome, Site
from odedeploy.grid import Grid
from odedeploy.program import Plan, solve_plan
from odedeploy.solvers import REFERENCE, find
from odedeploy.tableau import Method
from odedeploy.tolerance import floor_of, worst_error

SHARE = 0.02
"""Part of the tolerance that the reference's own error may take."""

METHODS = (REFERENCE, "dopri5")
"""Tried on a few inputs; the cheaper one is used. The order of a field that is not smooth decides."""

PILOT = 32
"""Inputs on which the resolution is found."""

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
    ``self_check`` is the largest error of any input
    between its last two resolutions. ``method`` is the solver, ``"kept"`` when every solve is a
    fixed-step call, and ``evaluations`` the most that the model's solves took together.
    """

    outcome: Outcome
    self_check: float
    method: str
    evaluations: int

    @cached_property
    def floors(self) -> dict[str, float]:
        """Least denominators of the relative error, by output, over all inputs."""
        return {name: floor_of(array) for name, array in self.outcome.outputs.items()}

    def errors(self, outputs: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
        """Error of every input, shape (n,), of ``outputs`` computed on ``rows`` of the inputs."""
        truth = {name: array[rows] for name, array in self.outcome.outputs.items()}
        return worst_error(outputs, truth, self.floors)


def solve(
    evaluator: Evaluator,
    sites: Sequence[Site],
    inputs: Inputs,
    tol: float,
    progress: Progress = silent,
    static: frozenset[str] = frozenset(),
) -> Reference:
    """Solve every input in float64 until two resolutions agree to ``SHARE`` of ``tol``.

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
    run = _Runs(evaluator, sites, inputs, static, progress)
    if all(site.kept is not None for site in sites):
        return _kept(run, n)
    method, resolution = _pilot(run, n, SHARE * tol, tol)
    return _settle(run, n, method, resolution, SHARE * tol, tol)


def _kept(run: _Runs, n: int) -> Reference:
    plan = Plan(tuple(site.kept for site in run.sites if site.kept is not None))
    outcome = run(plan, np.arange(n))
    broken = _broken(outcome)
    if broken.any():
        raise Diverged(_divergence(broken.nonzero()[0], n, plan.evaluations))
    return Reference(outcome, 0.0, "kept", plan.evaluations)


def _pilot(run: _Runs, n: int, allowed: float, tol: float) -> tuple[Method, int]:
    """The method and first resolution that solve all inputs at the least cost, judged by a few."""
    rows = np.unique(np.linspace(0, n - 1, min(n, PILOT)).astype(int))
    starts: list[tuple[float, Method, int]] = []
    attempts = [_Attempt(find(name)) for name in METHODS]
    limit = BUDGET
    for attempt in attempts:
        method, resolution, before = attempt.method, 1, None
        agreed: list[np.ndarray] = []
        while run.affordable(method, resolution, limit) and not attempt.hopeless:
            plan = run.plan(method, resolution)
            outcome = run(plan, rows)
            difference = _difference(before, outcome)
            attempt.note(outcome, difference, rows, plan.evaluations)
            agreed.append(difference <= allowed)
            if len(agreed) > 1 and (agreed[-1] & agreed[-2]).all():
                starts += [(cost, method, start) for start, cost in _costs(agreed, method)]
                limit = min(limit, 2 * plan.evaluations)
                break
            resolution, before = 2 * resolution, outcome
    if not starts:
        raise min(attempts, key=lambda attempt: attempt.difference).error(n, tol)
    _, method, resolution = min(starts, key=lambda start: start[0])
    return method, resolution


def _costs(agreed: Sequence[np.ndarray], method: Method) -> list[tuple[int, float]]:
    """Resolutions to start at, and the mean evaluations per input, in steps of the coarse grid.

    ``agreed[i]`` says which inputs agree between the resolutions 2^(i − 1) and 2^i. An input is
    resolved from the first of two agreements in a row on. Starting at 2^i costs 2^(i − 1) + 2^i,
    and every doubling after that its own evaluations for the inputs not resolved before.
    """
    resolved = [a & b for a, b in zip(agreed, agreed[1:], strict=False)]
    resolved = [np.any(resolved[: i + 1], axis=0) for i in range(len(resolved))]
    costs = []
    for start in range(1, len(resolved)):
        later = sum(
            2**i * float(np.mean(~resolved[i - 1])) for i in range(start + 1, len(resolved))
        )
        costs.append((2**start, method.evaluations(1) * (1.5 * 2**start + later)))
    return costs


def _settle(
    run: _Runs, n: int, method: Method, resolution: int, allowed: float, tol: float
) -> Reference:
    """Solve every input, those that do not agree at ever finer resolutions."""
    pending = np.arange(n)
    first, second = run.plan(method, resolution // 2), run.plan(method, resolution)
    run.expected = run.done + n * (first.evaluations + second.evaluations)
    before = run(first, pending)
    settled: Outcome | None = None
    floors: dict[str, float] = {}
    self_check = 0.0
    while True:
        plan = run.plan(method, resolution)
        outcome = run(plan, pending)
        floors = floors or {name: floor_of(array) for name, array in outcome.outputs.items()}
        difference = worst_error(before.outputs, outcome.outputs, floors)
        settled = _merged(settled, outcome, pending)
        agrees = difference <= allowed
        self_check = max(self_check, float(np.max(difference[agrees], initial=0.0)))
        if agrees.all():
            return Reference(settled, self_check, method.name, plan.evaluations)
        resolution *= 2
        if not run.affordable(method, resolution, BUDGET):
            attempt = _Attempt(method)
            attempt.note(outcome, difference, pending, plan.evaluations)
            raise attempt.error(n, tol)
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
    ) -> None:
        self.evaluator, self.sites, self.inputs = evaluator, sites, inputs
        self.static, self.progress = static, progress
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
    """How far a method came, for the message when no method resolves the solve."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.difference = np.inf
        self.evaluations = 0
        self.broken = np.empty(0, dtype=int)
        self.streak = 0

    @property
    def hopeless(self) -> bool:
        """Four doublings did not bring the solve back to the finite numbers. An explicit method
        that overflows for so long on a merely stiff field is unstable over the whole budget.
        """
        return self.streak > 4

    def note(
        self, outcome: Outcome, difference: np.ndarray, rows: np.ndarray, evaluations: int
    ) -> None:
        self.difference, self.evaluations = float(difference.max()), evaluations
        self.broken = rows[_broken(outcome)]
        self.streak = self.streak + 1 if self.broken.size else 0

    def error(self, n: int, tol: float) -> BadInput:
        if self.broken.size:
            return Diverged(_divergence(self.broken, n, self.evaluations))
        return BadInput(
            f"The solve could not be resolved to {SHARE:.0%} of the tolerance {tol:g}: at "
            f"{self.evaluations} evaluations of {self.method.name} two resolutions still differ "
            f"by {self.difference:.2g}; the vector field is stiff or discontinuous, or the "
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


def _difference(coarse: Outcome | None, fine: Outcome) -> np.ndarray:
    """Error of every input between two resolutions, shape (n,); infinite without a coarse one."""
    if coarse is None:
        return np.full(len(_broken(fine)), np.inf)
    with np.errstate(over="ignore"):
        return worst_error(coarse.outputs, fine.outputs)


def _broken(outcome: Outcome) -> np.ndarray:
    """Which inputs have an output that is not finite, shape (n,)."""
    rows = [
        ~np.isfinite(a).reshape(len(a), -1).all(axis=1) for a in outcome.outputs.values() if a.size
    ]
    return np.any(rows, axis=0)


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
