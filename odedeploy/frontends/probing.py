"""Reading a fixed-step method off the library that implements it.

A fixed-step explicit solve only takes linear combinations, so run on formal vectors it tells its
own coefficients: the initial state is the unit vector e_0 and the k-th evaluation of the field
returns e_{k+1}. The coordinates of the states that the solver asks for, and of those that it
delivers, are the method written out, whatever its options, step sizes and interpolation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from odedeploy.errors import CaptureRefused
from odedeploy.executor import Field, States
from odedeploy.executor import solve as execute
from odedeploy.grid import Grid
from odedeploy.program import Combine, Evaluate, Instruction, Program, SolvePlan

Solver = Callable[[Field, States, Tensor], States]
"""(field, initial, times) → one trajectory (times, *state) per state tensor."""


def probe(solver: Solver, times: Tensor, site: str, method: str) -> SolvePlan:
    """The exact plan of a fixed-step ``solver`` on ``times`` (T,).

    The plan is checked against the solver on a nonlinear field. Raises CaptureRefused when they
    differ, as they do for an implicit method that iterates to convergence.
    """
    singles = _times(solver, times)
    evaluations = len(singles)
    requests, outputs = _coordinates(solver, times, evaluations)
    if len(requests) != evaluations:
        raise _not_linear(method)
    program = _sparse(requests, outputs, round_off(times))
    marks = tuple(float(t) for t in times)
    plan = SolvePlan(site, method, Grid(marks, tuple(range(len(marks)))), program)
    _check(solver, times, plan)
    return replace(plan, program=_on_their_sides(program, singles))


def round_off(times: Tensor) -> float:
    """Round-off of coefficients: solvers compute them in the dtype of the times."""
    dtype = times.dtype if times.is_floating_point() else torch.float64
    return 16 * torch.finfo(dtype).eps * max(1.0, float(times.double().abs().max()))


def _times(solver: Solver, times: Tensor) -> list[float]:
    """When the field is evaluated, for a state in single precision."""
    found: list[float] = []

    def field(t: Tensor, states: States) -> States:
        found.append(float(t))
        return (torch.zeros_like(states[0]),)

    solver(field, (torch.zeros(1, dtype=torch.float32),), times)
    return found


def _coordinates(
    solver: Solver, times: Tensor, evaluations: int
) -> tuple[list[tuple[float, np.ndarray]], list[np.ndarray]]:
    """(time, coordinates) of every state asked for, and the coordinates delivered."""
    basis = torch.eye(evaluations + 1, dtype=torch.float64)
    requests: list[tuple[float, np.ndarray]] = []

    def field(t: Tensor, states: States) -> States:
        requests.append((float(t), states[0].numpy().copy()))
        return (basis[min(len(requests), evaluations)],)

    (trajectory,) = solver(field, (basis[0],), times)
    return requests, list(trajectory.numpy())


def _sparse(
    requests: list[tuple[float, np.ndarray]], outputs: list[np.ndarray], noise: float
) -> Program:
    """Each state relative to the earlier one that it shares most coordinates with.

    Coordinates that differ by less than ``noise`` are the same.
    """
    states = [np.eye(1, len(requests) + 1)[0]]
    instructions: list[Instruction] = []

    def state(target: np.ndarray) -> int:
        differences = [_without(target - known, noise) for known in states]
        base = min(range(len(states)), key=lambda i: (np.count_nonzero(differences[i]), -i))
        terms = np.flatnonzero(differences[base])
        if not len(terms):
            return base
        states.append(target)
        coefficients = tuple((int(k) - 1, float(differences[base][k])) for k in terms)
        instructions.append(Combine(len(states) - 1, base, coefficients))
        return len(states) - 1

    for slope, (time, coordinates) in enumerate(requests):
        instructions.append(Evaluate(slope, time, state(coordinates)))
    delivered = tuple(state(output) for output in outputs)
    return Program(tuple(instructions), delivered)


def _on_their_sides(program: Program, singles: list[float]) -> Program:
    """``program`` with the times that rounding to single precision would take to another number.

    A solver that looks at one side of a jump goes to the next number of its precision. That is
    double precision here and single precision in a file, where the difference would be lost.
    """
    instructions = list(program.instructions)
    for i, step in enumerate(instructions):
        if isinstance(step, Evaluate) and np.float32(step.time) != np.float32(singles[step.slope]):
            instructions[i] = replace(step, time=singles[step.slope])
    return Program(tuple(instructions), program.outputs)


def _without(difference: np.ndarray, noise: float) -> np.ndarray:
    return np.where(np.abs(difference) < noise, 0.0, difference)


def curved(t: Tensor, states: States) -> States:
    """A field on which no two methods agree."""
    return (torch.cos(3 * states[0]) + torch.sin(t),)


def _check(solver: Solver, times: Tensor, plan: SolvePlan) -> None:
    initial = (torch.linspace(-1, 1, 7, dtype=torch.float64),)
    (expected,), (found,) = solver(curved, initial, times), execute(plan.program, curved, initial)
    tolerance = max(1e-9, round_off(times) * len(plan.program.instructions))
    if not torch.allclose(expected, found, rtol=tolerance, atol=tolerance):
        raise _not_linear(plan.solver)


def _not_linear(method: str) -> CaptureRefused:
    return CaptureRefused(
        f"The method {method!r} is not a fixed linear combination of evaluations; "
        "use an explicit method, or an adaptive one, which is planned anew."
    )
