"""What a model asks of its solver, recorded on real inputs before anything is traced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from odedeploy.errors import BadInput, CaptureRefused, Diverged
from odedeploy.executor import States
from odedeploy.frontends.gradients import own_gradients
from odedeploy.frontends.interception import SolveCall, intercept, solver_functions
from odedeploy.frontends.noise import Draw, watched
from odedeploy.frontends.probing import probe
from odedeploy.graph import Site


@dataclass
class Recording:
    """The solves of one forward, in order, and what the forward returned."""

    calls: list[SolveCall] = field(default_factory=list)
    draws: list[Draw] = field(default_factory=list)
    result: Any = None


def record(model: nn.Module, inputs: Mapping[str, Tensor]) -> Recording:
    """Run ``model`` as its author wrote it and note every solve and every draw of noise.

    Raises Diverged when a solve returns numbers that are not finite or never ends, CaptureRefused
    when a field draws noise or returns another shape than its state's, and BadInput when the model
    does not run on its inputs.
    """
    recording = Recording()

    def handle(call: SolveCall) -> States:
        recording.calls.append(call)
        before = len(recording.draws)
        own_gradients(call.field)(call.times[0].to(call.initial[0].dtype), call.initial)
        trajectories = _as_written(call)
        if len(recording.draws) > before:
            raise CaptureRefused(
                f"{recording.draws[before].location}: the vector field draws noise at every "
                "evaluation, so it is no ODE; draw it once, before the solve."
            )
        if not all(bool(torch.isfinite(y).all()) for y in trajectories):
            raise Diverged(
                f"{call.location}: the solve with method {call.method!r} diverges on the example "
                "inputs; check the inputs' scale and the trained weights."
            )
        return trajectories

    known = solver_functions()
    with torch.enable_grad(), intercept(handle), watched() as recording.draws:
        try:
            recording.result = model(**inputs)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in inputs.items())
            reason = (str(error).strip().splitlines() or ["no message"])[0]
            raise BadInput(
                f"The model does not run on its inputs ({shapes}): {type(error).__name__}: "
                f"{reason[:200]}"
            ) from error
    if solver_functions() != known:
        return record(model, inputs)  # a library that forward itself imports is caught from now on
    return recording


def _as_written(call: SolveCall) -> States:
    try:
        return call.run(lambda: None)
    except AssertionError as error:
        if "underflow in dt" not in str(error) and "max_num_steps" not in str(error):
            raise
        raise Diverged(
            f"{call.location}: the adaptive solve with method {call.method!r} diverges on the "
            f"example inputs ({error}); check the inputs' scale and the trained weights."
        ) from error


def sites(first: Recording, second: Recording, replan: bool) -> tuple[Site, ...]:
    """The solves as sites, when two recordings on different inputs agree.

    Raises CaptureRefused when the number of solves or their times depend on the data.
    """
    if len(first.calls) != len(second.calls):
        raise CaptureRefused(
            f"{(first.calls + second.calls)[0].location}: the model solves {len(first.calls)} ODEs "
            f"for some inputs and {len(second.calls)} for others; make their number fixed."
        )
    return tuple(
        _site(f"solve{i}", a, b, replan)
        for i, (a, b) in enumerate(zip(first.calls, second.calls, strict=True))
    )


def _site(name: str, call: SolveCall, other: SolveCall, replan: bool) -> Site:
    times = _times(call)
    if times != _times(other):
        raise CaptureRefused(
            f"{call.location}: the times of the solve depend on the inputs ({_few(times)} for "
            f"some, {_few(_times(other))} for others), and times are constants of the exported "
            "model; fix them inside the model."
        )
    kept = None
    if call.kept is not None and not replan:
        kept = probe(call.kept, call.times.detach(), name, call.method)
    return Site(
        name=name, field=f"field{name.removeprefix('solve')}", times=times,
        states=len(call.initial), method=call.method, kept=kept, location=call.location,
    )


def _few(times: tuple[float, ...]) -> str:
    listed = [f"{t:g}" for t in times]
    return ", ".join(listed if len(listed) <= 4 else [*listed[:2], "…", listed[-1]])


def _times(call: SolveCall) -> tuple[float, ...]:
    times = tuple(float(t) for t in call.times.detach())
    steps = [b - a for a, b in zip(times, times[1:], strict=False)]
    if not steps or not (all(h > 0 for h in steps) or all(h < 0 for h in steps)):
        raise CaptureRefused(
            f"{call.location}: the solve's times {times} do not increase or decrease strictly; "
            "give at least two distinct times."
        )
    return times


def input_names(model: nn.Module, count: int = 0) -> tuple[str, ...]:
    """Names of forward's first ``count`` arguments, or of all of them.

    A module whose forward takes keywords only lists them in ``argument_names``.
    """
    listed = getattr(model, "argument_names", None)
    if listed is not None:
        return tuple(listed[:count] if count else listed)
    parameters = inspect.signature(model.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = tuple(p.name for p in parameters if p.kind in kinds)
    if len(names) < count:
        raise CaptureRefused(
            f"{type(model).__name__}.forward names {len(names)} inputs and {count} were given; "
            "spell its inputs out in its signature."
        )
    return names[:count] if count else names


def flatten(result: Any, attached: bool = False) -> dict[str, Tensor]:
    """A forward's result as named tensors: ``output``, ``output_0`` …, or a dict's own keys.

    Gradients are cut unless the tensors are to stay ``attached``.

    Raises CaptureRefused for a result that holds anything but tensors.
    """
    named: dict[str, Tensor] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, Tensor):
            named[name] = value if attached or not value.requires_grad else value.detach()
        elif isinstance(value, Mapping):
            for key, item in value.items():
                walk(item, str(key) if name == "output" else f"{name}_{key}")
        elif isinstance(value, (tuple, list)):
            for i, item in enumerate(value):
                walk(item, f"{name}_{i}")
        elif value is not None:
            raise CaptureRefused(
                f"The model returns a {type(value).__name__}; return tensors, or tuples or dicts "
                "of tensors."
            )

    walk(result, "output")
    if not named:
        raise CaptureRefused("The model returns no tensor; return the solution.")
    return named


Forward = Callable[..., tuple[Tensor, ...]]


def flat_forward(model: nn.Module, names: tuple[str, ...]) -> Forward:
    """``model`` as a function of positional tensors that returns a tuple of tensors."""

    def forward(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(flatten(model(**dict(zip(names, tensors, strict=True)))).values())

    return forward
