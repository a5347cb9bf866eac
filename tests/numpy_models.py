"""Small batched models in NumPy: a vector field or two, a head, and their evaluator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from odedeploy.graph import Inputs, Outcome, Site
from odedeploy.grid import Grid
from odedeploy.program import Plan, interpret, solve_plan
from odedeploy.solvers import find

Field = Callable[[np.floating, np.ndarray], np.ndarray]


@dataclass
class NumpyModel:
    """y = head(solve_n(… solve_1(x) …)): one field per site, states of shape (batch, d).

    Counts its work: ``spent`` is Σ rows × evaluations over all runs, ``rows`` is Σ rows.
    """

    fields: Sequence[Field]
    sites: tuple[Site, ...]
    head: Callable[[np.ndarray], np.ndarray] = lambda y: y
    spent: int = 0
    rows: int = 0
    plans: list[Plan] = field(default_factory=list)

    def run(self, plan: Plan, inputs: Inputs, precision: str) -> Outcome:
        assert [solve.site for solve in plan.solves] == [site.name for site in self.sites]
        self.plans.append(plan)
        self.spent += len(inputs["x"]) * plan.evaluations
        self.rows += len(inputs["x"])
        state = inputs["x"].astype(precision) * inputs.get("scale", np.ones(())).astype(precision)
        states = {}
        with np.errstate(all="ignore"):
            for f, solve in zip(self.fields, plan.solves, strict=True):
                state = interpret(solve.program, f, state)[-1]
                states[solve.site] = state
            return Outcome({"y": self.head(state)}, states)


def site(
    name: str, times: Sequence[float] = (0.0, 1.0), kept: tuple[str, int] | None = None
) -> Site:
    """An adaptive call, or with ``kept`` = (method, steps) a fixed-step one."""
    plan = None if kept is None else solve_plan(name, find(kept[0]), Grid.through(times, kept[1]))
    return Site(name, "field", tuple(times), 1, kept[0] if kept else "dopri5", plan)


def network(seed: int, strength: float = 2.0, relu: bool = False, width: int = 4) -> Field:
    """A time-dependent field of one hidden layer; ``strength`` scales how fast states move."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(width + 1, 16)) / np.sqrt(width)
    second = strength * rng.normal(size=(16, width)) / 4.0

    def f(t: np.floating, y: np.ndarray) -> np.ndarray:
        hidden = np.concatenate([y, np.full_like(y[:, :1], t)], axis=1) @ first.astype(y.dtype)
        hidden = np.maximum(hidden, 0) if relu else np.tanh(hidden)
        return hidden @ second.astype(y.dtype)

    return f


def spiral(rate: float = 6.0) -> Field:
    """A rotation whose speed depends on the radius; states of shape (batch, 2)."""

    def f(t: np.floating, y: np.ndarray) -> np.ndarray:
        speed = rate / (1 + (y**2).sum(axis=1, keepdims=True))
        return speed * np.stack([-y[:, 1], y[:, 0]], axis=1) - y / 2

    return f


def rotation(t: np.floating, y: np.ndarray) -> np.ndarray:
    """The first two components turn at the angular rate that the third holds."""
    return np.stack([-y[:, 2] * y[:, 1], y[:, 2] * y[:, 0], 0 * y[:, 2]], axis=1)


def points(n: int, seed: int = 0, width: int = 4) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)}


def model_of(*fields: Field, sites: tuple[Site, ...] | None = None) -> NumpyModel:
    """A model of adaptive solves over [0, 1] unless ``sites`` are given."""
    named = tuple(site(f"solve{i}") for i in range(len(fields)))
    return NumpyModel(fields, sites or named)
