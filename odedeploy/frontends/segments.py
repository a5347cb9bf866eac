"""A model cut at its solves, for formats that hold functions and a loop between them.

Every piece runs the model's own forward: what comes before a solve ends there with its initial
states, its vector field is evaluated there on states that are given, and what follows goes on with
trajectories that are given. Tracing a piece leaves what it does not need out of it; what a vector
field reads of the forward around it is computed in each evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import torch
from torch import Tensor, nn

from odedeploy.executor import States, solve
from odedeploy.frontends.evaluation import TorchEvaluator
from odedeploy.frontends.gradients import own_gradients
from odedeploy.frontends.interception import Handler, SolveCall, intercept
from odedeploy.frontends.intervals import along
from odedeploy.frontends.recording import flatten
from odedeploy.graph import Site
from odedeploy.program import Plan


class _Reached(BaseException):
    """Ends a forward at a solve; no model catches it."""

    def __init__(self, found: Sequence[Tensor]) -> None:
        self.found = found


class Segment(nn.Module):
    """One piece: positional lists of tensors → list of tensors, in float32.

    ``values`` are the model's inputs and then the trajectories (times, *state) of the solves
    before, all tensors of one solve after those of another. Solves that are kept are part of the
    piece, unrolled as ``plan`` says.
    """

    def __init__(
        self, evaluator: TorchEvaluator, plan: Plan, sites: Sequence[Site], place: int | None
    ) -> None:
        super().__init__()
        self.model = evaluator.model
        self._evaluator, self._plan, self._sites, self._place = evaluator, plan, sites, place

    def _run(self, values: Sequence[Tensor], found: Callable[[SolveCall], States]) -> list[Tensor]:
        evaluator = self._evaluator
        names = list(evaluator.example)
        given = iter(values[len(names) :])
        inputs = dict(zip(names, values, strict=False))
        handler = along(evaluator.ways, self._handler(given, found))
        with torch.no_grad(), intercept(handler):
            try:
                return list(flatten(self.model(**inputs)).values())
            except _Reached as reached:
                return list(reached.found)

    def _handler(self, given: Iterator[Tensor], found: Callable[[SolveCall], States]) -> Handler:
        solves, free = count(), count()

        def handle(call: SolveCall) -> States:
            site = self._sites[next(solves)]
            if site.kept is not None:
                program = self._plan[site.name].program
                return solve(program, own_gradients(call.field), call.initial)
            if next(free) == self._place:
                raise _Reached(found(call))
            return tuple(next(given) for _ in range(site.states))

        return handle


class Before(Segment):
    """The initial states of a solve, or of no solve the model's outputs."""

    def forward(self, values: list[Tensor]) -> list[Tensor]:
        return self._run(values, lambda call: call.initial)


class Slope(Segment):
    """The vector field of a solve: its states come last among ``values``, ``time`` is 0-d."""

    def forward(self, values: list[Tensor], time: Tensor) -> list[Tensor]:
        def found(call: SolveCall) -> States:
            states = tuple(values[len(values) - len(call.initial) :])
            derivatives = own_gradients(call.field)(time.to(states[0].dtype), states)
            return tuple(k.to(x.dtype) for k, x in zip(derivatives, states, strict=True))

        return self._run(values, found)
