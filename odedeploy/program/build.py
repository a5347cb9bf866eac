"""Method × grid → program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from odedeploy.grid import Grid
from odedeploy.program.instructions import Combine, Evaluate, Instruction, Program, SolvePlan
from odedeploy.tableau import Adams, Method, Tableau, adams_weights


def build(method: Method, grid: Grid) -> Program:
    """``method`` on ``grid``, written out: ``method.evaluations(grid.steps)`` evaluations.

    Step sizes are multiplied into the coefficients in float64. A Runge–Kutta stage is evaluated
    at t_i + c_j·h_i, and at exactly t_{i+1} when c_j = 1. Coefficients that are zero leave no
    term, and a combination without terms leaves no instruction.
    """
    return write(method, grid.times, grid.outputs)


def write(method: Method, times: Sequence[float], outputs: Sequence[int]) -> Program:
    """``build`` on step boundaries that may be any numbers which add, multiply and divide.

    Where ``times`` are 0-d tensors, times and coefficients of the program are so too, and it
    differentiates by them.
    """
    writer = _Writer()
    if isinstance(method, Tableau):
        states = _runge_kutta(writer, method, times)
    else:
        states = _adams(writer, method, times)
    return Program(tuple(writer.instructions), tuple(states[i] for i in outputs))


def solve_plan(site: str, method: Method, grid: Grid) -> SolvePlan:
    """The plan of the solve called ``site``: ``method`` on ``grid``."""
    return SolvePlan(site, method.name, grid, build(method, grid))


class _Writer:
    """Appends instructions and hands out the numbers of new slopes and states."""

    def __init__(self) -> None:
        self.instructions: list[Instruction] = []
        self.slopes = 0
        self.states = 1

    def evaluate(self, time: float, state: int) -> int:
        """The slope f(time, state)."""
        self.instructions.append(Evaluate(self.slopes, time, state))
        self.slopes += 1
        return self.slopes - 1

    def combine(self, base: int, slopes: Iterable[int], coefficients: Iterable[float]) -> int:
        """The state base + Σ coefficient · slope; ``base`` itself when nothing is added."""
        pairs = zip(slopes, coefficients, strict=True)
        terms = tuple((slope, coefficient) for slope, coefficient in pairs if coefficient)
        if not terms:
            return base
        self.instructions.append(Combine(self.states, base, terms))
        self.states += 1
        return self.states - 1


def _runge_kutta(writer: _Writer, method: Tableau, times: Sequence[float]) -> list[int]:
    """Writes all steps; returns the state at each of the grid's times."""
    rows = [[float(x) for x in row] for row in method.a]
    weights = [float(x) for x in method.b]
    nodes = [float(x) for x in method.c]
    states = [0]
    for start, end in pairwise(times):
        h, slopes = end - start, list[int]()
        for c, row in zip(nodes, rows, strict=True):
            stage = writer.combine(states[-1], slopes, [h * x for x in row])
            slopes.append(writer.evaluate(end if c == 1.0 else start + c * h, stage))
        states.append(writer.combine(states[-1], slopes, [h * x for x in weights]))
    return states


def _adams(writer: _Writer, method: Adams, times: Sequence[float]) -> list[int]:
    """Writes all steps; returns the state at each of the grid's times."""
    states, slopes = [0], list[int]()
    for i, (start, end) in enumerate(pairwise(times)):
        h = end - start
        slopes.append(writer.evaluate(start, states[-1]))
        if i == 0 and method.start == "midpoint":
            middle = writer.combine(0, slopes, [h / 2])
            slope = writer.evaluate(start + h / 2, middle)
            states.append(writer.combine(0, [slope], [h]))
            continue
        newest = range(i, max(i - method.history, -1), -1)
        weights = adams_weights([(times[m] - start) / h for m in newest])
        states.append(
            writer.combine(states[-1], [slopes[m] for m in newest], [h * w for w in weights])
        )
    return states
