"""What a model asks of its solver, recorded on real inputs before anything is traced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from odedeploy.errors import BadInput, CaptureRefused, Diverged
from odedeploy.executor import States
from odedeploy.frontends.gradients import own_gradients
from odedeploy.frontends.interception import SolveCall, intercept, solver_functions
from odedeploy.frontends.intervals import (
    UNIT,
    ByPieces,
    Way,
    by_intervals,
    kept_intervals,
    whole,
)
from odedeploy.frontends.noise import Draw, watched
from odedeploy.frontends.probing import probe
from odedeploy.frontends.provenance import Provenance
from odedeploy.graph import Site
from odedeploy.program import SolvePlan


@dataclass
class Recording:
    """The solves of one forward, in order, and what the forward returned.

    ``origins`` are, by solve, the inputs that its times are computed from; ``read`` holds the
    inputs whose numbers Python code read, and the line where it did.
    """

    calls: list[SolveCall] = field(default_factory=list)
    origins: list[frozenset[str]] = field(default_factory=list)
    read: Mapping[str, str] = field(default_factory=dict)
    draws: list[Draw] = field(default_factory=list)
    result: Any = None


def record(model: nn.Module, inputs: Mapping[str, Tensor]) -> Recording:
    """Run ``model`` as its author wrote it and note every solve and every draw of noise.

    Raises Diverged when a solve returns numbers that are not finite or never ends, CaptureRefused
    when a field draws noise or returns another shape than its state's, and BadInput when the model
    does not run on its inputs.
    """
    recording = Recording()
    provenance = Provenance(inputs)
    recording.read = provenance.read

    def handle(call: SolveCall) -> States:
        recording.calls.append(call)
        recording.origins.append(provenance.of((call.times, call.jumps)))
        before = len(recording.draws)
        with provenance.paused():
            own_gradients(call.field)(call.times[0].to(call.initial[0].dtype), call.initial)
            trajectories = _as_written(call)
        provenance.mark(trajectories, frozenset(inputs))
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
    with torch.enable_grad(), intercept(handle), watched() as recording.draws, provenance:
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


def sites(
    first: Recording, second: Recording, batched: Collection[str], replan: bool
) -> tuple[tuple[Site, ...], tuple[Way, ...]]:
    """The solves as sites, when two recordings on different inputs agree, and the calls' ways.

    Times that are computed from inputs without a batch axis are run-time times. Raises
    CaptureRefused when the number of solves or their times depend on the data otherwise.
    """
    if len(first.calls) != len(second.calls):
        raise CaptureRefused(
            f"{(first.calls + second.calls)[0].location}: the model solves {len(first.calls)} ODEs "
            f"for some inputs and {len(second.calls)} for others; make their number fixed."
        )
    found: list[Site] = []
    ways: list[Way] = []
    for call, other, origins in zip(first.calls, second.calls, first.origins, strict=True):
        times, moved = _times(call), _times(other)
        if origins:
            _refuse_rows(call, sorted(origins.intersection(batched)))
        elif times != moved or _jumps(call) != _jumps(other):
            raise CaptureRefused(
                f"{call.location}: the times of the solve depend on the inputs ({_few(times)} for "
                f"some, {_few(moved)} for others) by way of Python numbers, which cannot be "
                "followed; compute them by tensor operations, such as torch.stack, or fix them."
            )
        if len(times) != len(moved):
            raise CaptureRefused(
                f"{call.location}: the number of times depends on the inputs ({len(times)} for "
                f"some, {len(moved)} for others); give as many times for all."
            )
        write = _at_run_time if origins else _in_pieces if _jumps(call) else _constant
        links, way = write(call, len(found), times, replan)
        found += links
        ways.append(way)
    return tuple(found), tuple(ways)


Chain = tuple[list[Site], Way]


def _constant(call: SolveCall, first: int, times: tuple[float, ...], replan: bool) -> Chain:
    kept = None
    if call.kept is not None and not replan:
        kept = probe(call.kept, call.times.detach(), f"solve{first}", call.method)
    return [_site(call, first, times, kept)], whole


def _in_pieces(call: SolveCall, first: int, times: tuple[float, ...], replan: bool) -> Chain:
    """One site for each piece between jumps; fixed-step methods do not know of jumps."""
    way = ByPieces.between(times, _jumps(call))
    return [_site(call, i, piece) for i, piece in enumerate(way.pieces, first)], way


def _at_run_time(call: SolveCall, first: int, times: tuple[float, ...], replan: bool) -> Chain:
    """One site for each interval between run-time times."""
    if call.jumps is not None:
        raise CaptureRefused(
            f"{call.location}: the solve has jumps, and its times are computed from an input; fix "
            "the times or the jumps, or solve from jump to jump."
        )
    numbers = range(first, first + len(times) - 1)
    kept: Sequence[SolvePlan | None] = [None] * len(numbers)
    if call.kept is not None and not replan:
        kept = kept_intervals(call, [f"solve{i}" for i in numbers])
    links = [_site(call, i, UNIT, plan) for i, plan in zip(numbers, kept, strict=True)]
    return [replace(site, interval=i) for i, site in enumerate(links)], by_intervals


def _site(
    call: SolveCall, number: int, times: tuple[float, ...], kept: SolvePlan | None = None
) -> Site:
    return Site(
        f"solve{number}", f"field{number}", times, len(call.initial), call.method, kept,
        call.location,
    )  # fmt: skip


def _jumps(call: SolveCall) -> tuple[float, ...]:
    return () if call.jumps is None else tuple(float(t) for t in call.jumps.detach())


def _refuse_rows(call: SolveCall, rows: Sequence[str]) -> None:
    if rows:
        raise CaptureRefused(
            f"{call.location}: the times of the solve are computed from the input {rows[0]!r}, "
            "which has one row per sample, and a batch is solved on the same times; give times as "
            f"an input without a batch axis (--static {rows[0]}), or solve over (0, 1) and scale "
            "the vector field by each sample's span."
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
