"""What one input costs under each of several plans: their artefacts, timed in turns."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from odedeploy import formats
from odedeploy.formats import Runner
from odedeploy.graph import Inputs, OdeGraph
from odedeploy.profiling.openers import Timer
from odedeploy.program import Combine, Plan
from odedeploy.reference import take
from odedeploy.spec import ExportSpec
from odedeploy.targets import find

ROUNDS = 30
"""Most rounds in which every artefact runs once, in an order of its own. The fastest run counts:
what else the machine does only ever adds to it."""

SECONDS = 5.0
"""Time after which no further round begins, once there were ``FEWEST``."""

FEWEST = 5

TIE = 1e-3
"""Share of the time of an evaluation by which fewer evaluations win where timings do not tell."""


def measured(
    graph: OdeGraph, spec: ExportSpec, inputs: Inputs, static: frozenset[str] = frozenset()
) -> Callable[[Sequence[Plan]], list[float]]:
    """Gives plans → milliseconds of one inference of the first input on ``spec.target``.

    Every plan is lowered to ``spec.format``, or to ONNX where that takes long to build, and opened
    in its runtime. The times are smoothed by
    what latency is made of, a constant, the evaluations and the terms of the combinations, each at
    no less than nothing, so that a busy machine does not decide between plans that hardly differ.
    """
    form, target = formats.find(spec.format), find(spec.target)
    if not form.quick:
        form = formats.find("onnx")
    one = take(inputs, np.arange(1), static)

    def costs(plans: Sequence[Plan]) -> list[float]:
        with tempfile.TemporaryDirectory(prefix="odedeploy-") as folder:
            runners = []
            for i, plan in enumerate(plans):
                path = Path(folder) / f"{i}{form.suffix}"
                form.build(graph, plan, spec.form).write(path, {})
                runners.append(form.open(path, target.threads, target.opening_of(form.name)))
            fastest = _fastest(runners, one, spec.seed)
        return _smoothed(plans, fastest)

    return costs


def _fastest(runners: Sequence[Runner], inputs: Inputs, seed: int) -> np.ndarray:
    """Milliseconds of each, shape (runners,)."""
    order, times = np.random.default_rng(seed), np.full(len(runners), np.inf)
    end = time.perf_counter() + SECONDS
    for done in range(ROUNDS):
        if done >= FEWEST and time.perf_counter() > end:
            break
        for i in order.permutation(len(runners)):
            times[i] = min(times[i], 1e3 * _once(runners[i], inputs))
    return times


def _smoothed(plans: Sequence[Plan], fastest: np.ndarray) -> list[float]:
    """constant + evaluations + terms, fitted to the times by non-negative least squares."""
    from scipy.optimize import nnls

    parts = np.array([[1.0, plan.evaluations, _terms(plan)] for plan in plans])
    fitted = parts @ nnls(parts, fastest)[0]
    tie = TIE * float(np.median(fastest)) * parts[:, 1] / parts[:, 1].max()
    return [float(x) for x in fitted + tie]


def _terms(plan: Plan) -> int:
    return sum(
        len(step.terms)
        for solve in plan.solves
        for step in solve.program.instructions
        if isinstance(step, Combine)
    )


def ratio(
    a: Runner, b: Runner, inputs: Inputs, rounds: int = 40, seconds: float = 4.0
) -> float:
    """Median over rounds of the latency of ``a`` over that of ``b``, measured in turn."""
    for runner in (a, b):
        for _ in range(5):
            runner.run(inputs)
    ratios: list[float] = []
    began = time.perf_counter()
    while len(ratios) < rounds and (len(ratios) < 3 or time.perf_counter() - began < seconds):
        ratios.append(_seconds(a, inputs) / _seconds(b, inputs))
    return float(np.median(ratios))


def _seconds(runner: Runner, inputs: Inputs, repeats: int = 5) -> float:
    """The least of a few latencies in a row."""
    return min(_once(runner, inputs) for _ in range(repeats))


def _once(runner: Runner, inputs: Inputs) -> float:
    """Seconds of one run, by the runner's own clock where it has one."""
    if isinstance(runner, Timer):
        return runner.timed([inputs], 0.0, 1)[0][0] / 1e9
    began = time.perf_counter()
    runner.run(inputs)
    return time.perf_counter() - began
