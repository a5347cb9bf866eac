"""torchode: ``AutoDiffAdjoint.solve``, through which its other adjoints and ``solve_ivp`` go too.

torchode gives every sample its own times; here all samples of a batch share them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchode
from torch import Tensor
from torchode import AutoDiffAdjoint, InitialValueProblem, ODETerm, Solution

from odedeploy.errors import CaptureRefused
from odedeploy.executor import Field, States
from odedeploy.frontends.interception import Hook, SolveCall, call_site, check_shapes

SIGNATURE = inspect.signature(AutoDiffAdjoint.solve)


def hooks() -> Sequence[Hook]:
    """The solver loop of torchode."""
    return (Hook("torchode.AutoDiffAdjoint.solve", AutoDiffAdjoint.solve, _translate),)


def _translate(args: tuple[Any, ...], kwargs: dict[str, Any]) -> SolveCall:
    given = SIGNATURE.bind(*args, **kwargs)
    given.apply_defaults()
    adjoint, problem, term, dt0, extra = given.args
    location = call_site()
    term = adjoint.step_method.term if term is None else term
    marks = problem.t_eval
    if marks is None:
        marks = torch.stack([problem.t_start, problem.t_end], 1)

    def evaluate(t: Tensor, y: Tensor) -> Any:
        if type(term).vf is ODETerm.vf:
            return term.f(t, y, extra) if term.with_args else term.f(t, y)
        stats: dict[str, Any] = {}
        term.init(problem, stats)
        return term.vf(t, y, stats, extra)

    def field(t: Tensor, states: States) -> States:
        (y,) = states
        derivatives = (evaluate(t.to(marks.dtype).expand(y.shape[0]), y),)
        check_shapes(derivatives, states, location)
        return derivatives

    def run(observe: Callable[[], None]) -> States:
        def observed(t: Tensor, y: Tensor) -> Any:
            observe()
            return evaluate(t, y)

        _check_times(problem, marks, location)
        sampled = InitialValueProblem(problem.y0, problem.t_start, problem.t_end, marks)
        return (adjoint.solve(sampled, _term(observed), dt0).ys.transpose(0, 1),)

    def wrap(trajectories: States) -> Solution:
        ys = trajectories[0].transpose(0, 1)
        status = torch.zeros(problem.y0.shape[0], dtype=torch.long, device=problem.device)
        if problem.t_eval is None:
            return Solution(ts=problem.t_end[:, None], ys=ys[:, -1:], stats={}, status=status)
        return Solution(ts=problem.t_eval, ys=ys, stats={}, status=status)

    fixed = isinstance(adjoint.step_size_controller, torchode.FixedStepController)
    return SolveCall(
        field=field, initial=(problem.y0,), times=marks[0],
        method=type(adjoint.step_method).__name__, run=run, wrap=wrap,
        kept=_fixed_step(adjoint, dt0) if fixed else None, location=location,
    )


def _fixed_step(
    adjoint: AutoDiffAdjoint, dt0: Tensor | None
) -> Callable[[Field, States, Tensor], States]:
    def kept(field: Field, initial: States, times: Tensor) -> States:
        def function(t: Tensor, y: Tensor) -> Tensor:
            return field(t[0].to(y.dtype), (y[0],))[0][None]

        problem = InitialValueProblem(initial[0][None], times[:1], times[-1:], times[None])
        step = None if dt0 is None else dt0[:1]
        return (adjoint.solve(problem, _term(function), step).ys[0],)

    return kept


def _term(function: Callable[[Tensor, Tensor], Any]) -> ODETerm:
    return ODETerm(function, with_stats=False)


def _check_times(problem: InitialValueProblem, marks: Tensor, location: str) -> None:
    """On real values only: while a model is traced its times cannot be read."""
    if not bool((marks == marks[:1]).all() and (problem.t_start == marks[:, 0]).all()):
        raise CaptureRefused(
            f"{location}: the samples have times of their own, or are evaluated from later than "
            "their start; give all samples the same t_eval, beginning at t_start."
        )
