"""The ODE graph: a model in which every ODE solve is still one operator.

An ``OdeGraph`` wraps an ONNX model over ``ai.onnx`` with two private additions:

* ``odedeploy::Solve``, one node a solve, named after its site. Inputs are the s initial states
  followed by the field's context (weights and anything computed earlier in the model); outputs
  are s trajectories, each of shape (times, *state).
* one function in the domain ``odedeploy.field`` per vector field: inputs t (0-d, the dtype of the
  state), the s states and the context in the order of the Solve node; outputs the s derivatives,
  each of its state's shape. A field used by several solves is held once.

No solver is chosen yet: times and the caller's intent stand in ``Site``.

A model with a vector field that cannot be held so, because it branches in Python on t or looks a
table up by t, has no symbolic solves: its ``OdeGraph`` traces the live model for every plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import onnx_ir as ir

from odedeploy.errors import BadInput
from odedeploy.program import Plan, SolvePlan

SOLVE_DOMAIN = "odedeploy"
FIELD_DOMAIN = "odedeploy.field"
OPSET = 20

Inputs = Mapping[str, np.ndarray]
"""Arrays by input name; the first axis of a batched input is the batch."""


class Outcome(NamedTuple):
    """Result of running a plan: the model's outputs by name and each solve's final states.

    Outputs have the batch first: a trajectory (times, batch, …) is given as (batch, times, …).
    ``states`` maps ``"<site>"`` (or ``"<site>.<i>"`` for several state tensors) to the state at
    the solve's last output time. ``monitors`` are the outputs (batch,) that the plan adds, its
    alarm.
    """

    outputs: dict[str, np.ndarray]
    states: dict[str, np.ndarray]
    monitors: dict[str, np.ndarray] = {}  # noqa: RUF012


class Evaluator(Protocol):
    """Runs any plan of one model on real inputs."""

    def run(self, plan: Plan, inputs: Inputs, precision: str) -> Outcome:
        """``precision`` is ``"float32"`` or ``"float64"``: of weights, states and time alike."""
        ...


@dataclass(frozen=True)
class Site:
    """One ODE solve of a model, as its author called it.

    ``times`` are the requested output times in float64, at least two, monotone in either
    direction. ``field`` is the name of its vector field's function, empty when the graph traces
    every plan. ``states`` is the number of state tensors. ``method`` is the calling library's name
    of the solver. ``kept`` is the exact plan of a fixed-step call, whose discretisation is the
    model; it is None for an adaptive call, which asks for the solution. ``location`` is the
    ``file:line`` of the call; it stays on this machine. A call whose times are an input of the
    model has one site for each output interval, of which ``interval`` is the number, and its times
    are (0, 1), fractions of the interval; it is None for a call with constant times. ``constants``
    names the biases of the field, for which a plan may give each evaluation values of its own.
    """

    name: str
    field: str
    times: tuple[float, ...]
    states: int
    method: str
    kept: SolvePlan | None = None
    location: str = ""
    interval: int | None = None
    constants: tuple[str, ...] = ()


@dataclass
class OdeGraph:
    """A captured model with no solver chosen yet.

    ``evaluator`` runs plans on the live PyTorch model; it is None for a graph read from a file.
    ``trace`` writes the unrolled model of a plan by tracing the live one, where a vector field
    cannot be held as a function; ``model`` is then such a model under some plan. ``batch`` is the
    one batch size that it is to be lowered for, None for any.
    """

    model: ir.Model
    sites: tuple[Site, ...]
    evaluator: Evaluator | None = None
    trace: Callable[[Plan], ir.Model] | None = None
    batch: int | None = None

    @property
    def route(self) -> str:
        """How plans become ONNX: ``"symbolic"`` by graph surgery, or ``"traced"``."""
        return "symbolic" if self.trace is None else "traced"

    def site(self, name: str) -> Site:
        for site in self.sites:
            if site.name == name:
                return site
        raise BadInput(f"The model holds no solve {name!r}, only {[s.name for s in self.sites]}.")
