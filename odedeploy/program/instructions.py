"""A plan as data: the evaluations and combinations of a fixed-step explicit solve.

Every explicit method that only takes linear combinations is one n-stage Runge–Kutta method over
the whole interval. Its sparse form is a straight-line program in single assignment: slopes
k_0, k_1, … and states x_0, x_1, … are each written once, x_0 is the initial state, and a state is
an earlier state plus a short linear combination of slopes. Step sizes are multiplied into the
coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from odedeploy.errors import BadInput
from odedeploy.grid import Grid
from odedeploy.program.alarm import Alarm
from odedeploy.program.constants import Constants
from odedeploy.program.control import Control


@dataclass(frozen=True, slots=True)
class Evaluate:
    """k[slope] = f(time, x[state])."""

    slope: int
    time: float
    state: int


@dataclass(frozen=True, slots=True)
class Combine:
    """x[state] = x[base] + Σ coefficient · k[slope] over ``terms`` of (slope, coefficient)."""

    state: int
    base: int
    terms: tuple[tuple[int, float], ...]


Instruction = Evaluate | Combine


@dataclass(frozen=True)
class Program:
    """Instructions in execution order and the states to deliver, one per output time.

    Raises BadInput when a slope or state is read before it is written, or written twice.
    """

    instructions: tuple[Instruction, ...]
    outputs: tuple[int, ...]

    def __post_init__(self) -> None:
        slopes: set[int] = set()
        states = {0}
        for step in self.instructions:
            if isinstance(step, Evaluate):
                reads, written, target = {step.state} <= states, slopes, step.slope
            else:
                known = {slope for slope, _ in step.terms} <= slopes
                reads, written, target = known and step.base in states, states, step.state
            if not reads or target in written:
                raise BadInput(f"{step} reads an unwritten value or writes one twice.")
            written.add(target)
        if not set(self.outputs) <= states:
            raise BadInput(f"The program never computes the outputs {self.outputs}.")

    @property
    def evaluations(self) -> int:
        """Number of evaluations of the vector field (NFE)."""
        return sum(isinstance(step, Evaluate) for step in self.instructions)

    @property
    def times(self) -> tuple[float, ...]:
        """Times of the evaluations, in execution order."""
        return tuple(step.time for step in self.instructions if isinstance(step, Evaluate))


@dataclass(frozen=True)
class SolvePlan:
    """How one solve of a model is computed: ``program`` is ``solver`` on ``grid``, written out.

    ``constants`` are empty, or hold for each evaluation, in execution order, the values that stand
    in for parameters of the vector field while it runs; it is then no longer the trained field.

    Raises BadInput for constants of another number of evaluations.
    """

    site: str
    solver: str
    grid: Grid
    program: Program
    constants: tuple[Constants, ...] = ()

    def __post_init__(self) -> None:
        if self.constants and len(self.constants) != self.program.evaluations:
            raise BadInput(
                f"The plan of {self.site!r} has constants for {len(self.constants)} evaluations "
                f"and {self.program.evaluations} evaluations; give as many."
            )


@dataclass(frozen=True)
class Plan:
    """One SolvePlan per solve of the model, in the order of the model's calls.

    ``alarm`` is an output that is made of the slopes of these solves, beside the model's own.
    ``control`` is how the solves that are not among ``solves`` choose their own steps.
    """

    solves: tuple[SolvePlan, ...]
    alarm: Alarm | None = None
    control: Control | None = None

    @property
    def evaluations(self) -> int:
        """Evaluations of all solves with fixed steps together (NFE)."""
        return sum(solve.program.evaluations for solve in self.solves)

    def __getitem__(self, site: str) -> SolvePlan:
        for solve in self.solves:
            if solve.site == site:
                return solve
        raise BadInput(f"The plan holds no solve {site!r}, only {[s.site for s in self.solves]}.")

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; ``from_json`` gives the same plan back, bit for bit."""
        alarm = {} if self.alarm is None else {"alarm": self.alarm.to_json()}
        control = {} if self.control is None else {"control": self.control.to_json()}
        return {"solves": [_solve_to_json(solve) for solve in self.solves], **alarm, **control}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """Raises BadInput for anything that ``to_json`` did not write."""
        try:
            return cls(
                tuple(_solve_from_json(solve) for solve in data["solves"]),
                Alarm.from_json(data["alarm"]) if "alarm" in data else None,
                Control.from_json(data["control"]) if "control" in data else None,
            )
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BadInput(
                f"This is not a plan's JSON: {error!r}; give what export wrote."
            ) from error


def _solve_to_json(solve: SolvePlan) -> dict[str, Any]:
    data: dict[str, Any] = {
        "site": solve.site,
        "solver": solve.solver,
        "times": list(solve.grid.times),
        "outputs": list(solve.grid.outputs),
        "program": [_instruction_to_json(i) for i in solve.program.instructions],
        "states": list(solve.program.outputs),
    }
    if solve.constants:
        data["constants"] = [constants.to_json() for constants in solve.constants]
    return data


def _solve_from_json(data: dict[str, Any]) -> SolvePlan:
    return SolvePlan(
        data["site"],
        data["solver"],
        Grid(tuple(map(float, data["times"])), tuple(map(int, data["outputs"]))),
        Program(
            tuple(_instruction_from_json(i) for i in data["program"]),
            tuple(map(int, data["states"])),
        ),
        tuple(Constants.from_json(constants) for constants in data.get("constants", ())),
    )


def _instruction_to_json(step: Instruction) -> list[Any]:
    if isinstance(step, Evaluate):
        return ["f", step.slope, step.time, step.state]
    return ["x", step.state, step.base, [list(term) for term in step.terms]]


def _instruction_from_json(data: list[Any]) -> Instruction:
    kind, *rest = data
    if kind == "f":
        slope, time, state = rest
        return Evaluate(int(slope), float(time), int(state))
    if kind == "x":
        state, base, terms = rest
        return Combine(int(state), int(base), tuple((int(k), float(c)) for k, c in terms))
    raise ValueError(kind)
