"""A program as one explicit Runge–Kutta method over its whole interval, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from odedeploy.program.instructions import Combine, Evaluate, Instruction, Program


@dataclass(frozen=True, eq=False)
class Dense:
    """n stages: k_i = f(t_i, x_0 + Σ_{j<i} B_ij k_j), and outputs x_0 + Σ_j b_oj k_j.

    ``times`` has shape (n,), ``rows`` (B) shape (n, n), strictly lower triangular, and ``weights``
    (b) shape (outputs, n). Step sizes are multiplied in, so that a stage is consistent when its
    row sums to its time less the initial one.
    """

    times: np.ndarray
    rows: np.ndarray
    weights: np.ndarray

    @property
    def stages(self) -> int:
        """Evaluations of the vector field (NFE)."""
        return len(self.times)


def expand(program: Program) -> Dense:
    """Every state of ``program`` written out over the initial state and the slopes."""
    n = program.evaluations
    states = {0: np.zeros(n)}
    times, rows = list[float](), list[np.ndarray]()
    place: dict[int, int] = {}
    for step in program.instructions:
        if isinstance(step, Evaluate):
            place[step.slope] = len(times)
            times.append(step.time)
            rows.append(states[step.state])
        else:
            state = states[step.base].copy()
            for slope, coefficient in step.terms:
                state[place[slope]] += coefficient
            states[step.state] = state
    weights = np.array([states[output] for output in program.outputs])
    return Dense(np.array(times), np.array(rows).reshape(n, n), weights)


def contract(dense: Dense, negligible: float = 0.0) -> Program:
    """A program of the same method; coefficients of at most ``negligible`` leave no term.

    A state builds on the earlier state from which it differs in the fewest slopes, on the initial
    state unless another one saves a term.
    """
    instructions: list[Instruction] = []
    known = [np.zeros(dense.stages)]

    def state(row: np.ndarray) -> int:
        row = np.where(np.abs(row) > negligible, row, 0.0)
        terms = [int(np.count_nonzero(row - other)) for other in known]
        base = int(np.argmin(terms))
        if not terms[base]:
            return base
        change = row - known[base]
        pairs = tuple((int(j), float(change[j])) for j in np.flatnonzero(change))
        instructions.append(Combine(len(known), base, pairs))
        known.append(row)
        return len(known) - 1

    for i, (time, row) in enumerate(zip(dense.times, dense.rows, strict=True)):
        instructions.append(Evaluate(i, float(time), state(row)))
    outputs = tuple([state(row) for row in dense.weights])
    return Program(tuple(instructions), outputs)


def written_out(times: Sequence[Any], rows: Sequence[Any], weights: Sequence[Any]) -> Program:
    """The program of a ``Dense`` whose numbers may be 0-d tensors.

    Every state is built on the initial one; ``rows[i]`` holds the i coefficients of stage i.
    """
    instructions: list[Instruction] = []
    states = 0

    def state(row: Sequence[Any]) -> int:
        nonlocal states
        if not len(row):
            return 0
        states += 1
        instructions.append(Combine(states, 0, tuple(enumerate(row))))
        return states

    for i, (time, row) in enumerate(zip(times, rows, strict=True)):
        instructions.append(Evaluate(i, time, state(row)))
    outputs = tuple([state(row) for row in weights])
    return Program(tuple(instructions), outputs)
