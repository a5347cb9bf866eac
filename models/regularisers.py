"""Regularisers that make a Neural ODE cheap to deploy, and the solve that they look at.

A regularised model is trained through fixed steps of the Bogacki–Shampine pair: backpropagation
through them gives the exact gradient of every penalty, the pair's two orders give the local
errors, and its last slope is the next step's first, so that four steps cost 13 evaluations.
Evaluated, the model solves as it always does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Generator, Tensor, nn

from odedeploy.errors import BadInput, UnknownName
from odedeploy.models.solves import standing_in
from odedeploy.models.tasks import Batch, Metrics, Task, Weighted
from odedeploy.solvers.runge_kutta import RALSTON3

STEPS = 4


@dataclass(frozen=True)
class Trajectory:
    """A solve by n equal steps of length ``step``, recorded for backpropagation.

    ``states`` and ``slopes`` are the n + 1 states (batch, …) at the ends of the steps and the
    field's values there; ``errors`` are the n local errors of the lower order, as differences of
    states.
    """

    step: float
    states: Sequence[Tensor]
    slopes: Sequence[Tensor]
    errors: Sequence[Tensor]


@dataclass(frozen=True)
class Regulariser:
    """One entry: what it does, where it is from, and its two ways of acting.

    ``penalty`` is a scalar that is added to the loss with the regulariser's weight; ``end`` moves
    the end of the solve, given its length and the weight. Either may be None.
    """

    summary: str
    source: str
    penalty: Callable[[Trajectory, Generator], Tensor] | None = None
    end: Callable[[float, float, Generator], float] | None = None


def kinetic(path: Trajectory, generator: Generator) -> Tensor:
    """∫ mean f² dt over the elements of the state, by the trapezoidal rule."""
    squares = [slope.square().mean() for slope in path.slopes]
    inner = torch.stack(squares).sum() - (squares[0] + squares[-1]) / 2
    return path.step * inner


def jacobian(path: Trajectory, generator: Generator) -> Tensor:
    """∫ ‖∂f/∂y‖²_F dt per element of the state, estimated at a random end of a step.

    Hutchinson's estimate ‖εᵀ ∂f/∂y‖² with one ε of signs a sample.
    """
    last = len(path.slopes) - 1
    at = int(torch.randint(last + 1, (), generator=generator))
    slope, state = path.slopes[at], path.states[at]
    signs = torch.randint(2, slope.shape, generator=generator).to(slope) * 2 - 1
    (product,) = torch.autograd.grad(slope, state, signs, create_graph=True)
    return path.step * last * product.square().mean()


def local_error(path: Trajectory, generator: Generator) -> Tensor:
    """Mean over samples of the steps' local errors, each by its root mean square, summed."""
    return torch.stack([_rms(error).mean() for error in path.errors]).sum()


def random_end(length: float, weight: float, generator: Generator) -> float:
    """A length uniform within ``weight`` times the given one of it."""
    return length * (1 + weight * (2 * torch.rand((), generator=generator).item() - 1))


REGULARISERS: Mapping[str, Regulariser] = MappingProxyType(
    {
        "kinetic": Regulariser(
            "kinetic energy of the trajectory",
            "Finlay, Jacobsen, Nurbekyan, Oberman, How to train your neural ODE, ICML 2020",
            penalty=kinetic,
        ),
        "jacobian": Regulariser(
            "Frobenius norm of the field's Jacobian along the trajectory",
            "Finlay, Jacobsen, Nurbekyan, Oberman, How to train your neural ODE, ICML 2020",
            penalty=jacobian,
        ),
        "local-error": Regulariser(
            "local errors of an embedded pair",
            "Pal, Ma, Shah, Rackauckas, Opening the blackbox, ICML 2021",
            penalty=local_error,
        ),
        "end-time": Regulariser(
            "a random end of the solve, within WEIGHT of its length",
            "Ghosh, Behl, Dupont, Torr, Namboodiri, STEER, NeurIPS 2020",
            end=random_end,
        ),
    }
)


def parse(texts: Sequence[str]) -> Weighted:
    """``("kinetic=0.01", …)`` as pairs of name and weight.

    Raises UnknownName for a regulariser that does not exist, BadInput for a weight that is not a
    positive number, one of 1 or more for a random end, or a name given twice.
    """
    pairs = []
    for text in texts:
        name, _, weight = text.partition("=")
        if name not in REGULARISERS:
            raise UnknownName("regulariser", name, REGULARISERS)
        pairs.append((name, _weight(name, weight)))
    if len(dict(pairs)) < len(pairs):
        raise BadInput(f"--regularise names a regulariser twice in {', '.join(texts)}; once each.")
    return tuple(pairs)


def regularised(task: Task) -> Task:
    """The task with the regularisers of its recipe in the loss, and each penalty as a metric.

    The noise of a step is drawn from the step's own generator, after the batch.
    """
    weights = task.recipe.regularisers

    def batch(rows: Tensor, generator: Generator) -> Batch:
        parts = task.batch(rows, generator)
        return (*parts, torch.randint(2**31, (1,), generator=generator))

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        *parts, seed = batch
        solve = RegularisedSolve(weights, Generator().manual_seed(int(seed)))
        with standing_in(model, solve):
            value, metrics = task.loss(model, tuple(parts))
        for name, penalty in solve.penalties.items():
            value = value + dict(weights)[name] * penalty
        return value, metrics | {name: p.item() for name, p in solve.penalties.items()}

    return replace(task, batch=batch, loss=loss)


class RegularisedSolve:
    """A solve by fixed steps that collects the penalties of its trajectory, by name."""

    def __init__(self, weights: Weighted, generator: Generator) -> None:
        self.weights = weights
        self.generator = generator
        self.penalties: dict[str, Tensor] = {}

    def __call__(self, field: nn.Module, start: Tensor, t0: float, t1: float) -> Tensor:
        length = t1 - t0
        for name, weight in self.weights:
            if (end := REGULARISERS[name].end) is not None:
                length = end(length, weight, self.generator)
        path = follow(field, start, t0, t0 + length)
        for name, _ in self.weights:
            if (penalty := REGULARISERS[name].penalty) is not None:
                value = penalty(path, self.generator)
                self.penalties[name] = self.penalties.get(name, value.new_zeros(())) + value
        return path.states[-1]


def follow(field: nn.Module, start: Tensor, t0: float, t1: float, steps: int = STEPS) -> Trajectory:
    """Solve from ``start`` (batch, …) at ``t0`` to ``t1`` by ``steps`` steps of the pair."""
    a = [[float(x) for x in row] for row in RALSTON3.a]
    b, low = [float(x) for x in RALSTON3.b], [float(x) for x in RALSTON3.b_low or ()]
    difference = [high - weight for high, weight in zip([*b, 0.0], low, strict=True)]
    step = (t1 - t0) / steps

    def f(at: float, y: Tensor) -> Tensor:
        out: Tensor = field(torch.as_tensor(t0 + at * step, dtype=y.dtype, device=y.device), y)
        return out

    states, slopes, errors = [start], [f(0, start)], []
    for k in range(steps):
        stages = [slopes[-1]]
        for row in a[1:]:
            stages.append(f(k + sum(row), _combine(states[-1], step, row, stages)))
        states.append(_combine(states[-1], step, b, stages))
        slopes.append(f(k + 1, states[-1]))
        errors.append(step * _sum(difference, [*stages, slopes[-1]]))
    return Trajectory(step, states, slopes, errors)


def _combine(y: Tensor, step: float, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    return y + step * _sum(weights, slopes)


def _sum(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(slopes[0])
    for weight, slope in zip(weights, slopes, strict=True):
        total = torch.add(total, slope, alpha=weight) if weight else total
    return total


def _rms(value: Tensor) -> Tensor:
    """Root mean square of each sample (batch, …) → (batch,); smooth at zero."""
    return (value.flatten(1).square().mean(1) + torch.finfo(value.dtype).tiny).sqrt()


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    most = 1.0 if REGULARISERS[name].end else math.inf
    if not 0 < weight < most:
        upper = f" below {most:g}" if most < math.inf else ""
        raise BadInput(
            f"--regularise {name} needs a positive weight{upper}, as in {name}=0.01, got {text!r}."
        )
    return weight
