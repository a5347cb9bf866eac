"""Running plans on the live PyTorch model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from odedeploy.errors import BadInput, CaptureRefused
from odedeploy.executor import Field, States, solve
from odedeploy.frontends.gradients import own_gradients
from odedeploy.frontends.interception import Handler, SolveCall, intercept
from odedeploy.frontends.intervals import Way, along
from odedeploy.frontends.own_constants import own_fields
from odedeploy.frontends.prefix import Prefix
from odedeploy.frontends.preserve import preserved
from odedeploy.frontends.recording import Forward, flatten
from odedeploy.frontends.watching import Slopes, alarm_of, grams_of
from odedeploy.graph import Inputs, Outcome
from odedeploy.program import Plan

ROWS = 128
"""Inputs run at a time; bounds the memory of stored slopes."""

BATCHES = (2, 3)
"""Batch sizes whose shapes are compared to find the batch axis of a state."""

Visit = Callable[[str, Field, Tensor, States], None]
"""Called with the site, the vector field, and the time and states where it is evaluated."""

Answers = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Outputs and final states by name, the tensors of an ``Outcome``."""


class TorchEvaluator:
    """The captured model with its solves replaced by plans.

    ``example`` holds a few rows of the inputs it was captured with; inputs in ``static`` have no
    batch axis. ``axes`` is the place of the batch axis in each output. ``ways`` are those
    of its solves, by call.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Inputs,
        static: frozenset[str] = frozenset(),
        axes: Mapping[str, int] | None = None,
        ways: Sequence[Way] = (),
    ) -> None:
        self.model = model
        self.example = dict(example)
        self.static = static
        self.axes = dict(axes or {})
        self.ways = tuple(ways)

    def run(self, plan: Plan, inputs: Inputs, precision: str) -> Outcome:
        """Outputs and final states of the model under ``plan``, in ``"float32"`` or ``"float64"``.

        The plan's alarm is the outcome's monitor. Runs ``ROWS`` inputs at a time. Raises BadInput
        for another precision.
        """
        if precision not in ("float32", "float64"):
            raise BadInput(f"Plans run in float32 or float64, not {precision!r}.")
        parts = [self._run(plan, part, precision) for part in self.parts(inputs)]
        return Outcome(*(_concatenated([part[i] for part in parts]) for i in range(3)))

    @contextmanager
    def differentiable(self, inputs: Inputs) -> Iterator[Callable[[Plan], Answers]]:
        """Gives plan → outputs and final states of ``inputs`` in float32, gradients alive.

        Gradients go to those times and coefficients of the plan that are 0-d tensors; the weights
        are frozen. Outputs have the batch first. All inputs run at once, and ``backward`` belongs
        inside the block, at whose end the model is restored. A forward that switches gradients off
        returns outputs without them; states keep theirs.
        """

        def forward(plan: Plan) -> Answers:
            states: dict[str, Tensor] = {}
            planned = self.handler(plan, states, attached=True)
            with prefix(planned) as handler, intercept(handler):
                result = flatten(self.model(**tensors), attached=True)
            return self._batch_first(result), states

        prefix = Prefix()
        tensors = {name: _tensor(array, "float32") for name, array in inputs.items()}
        # solver functions are looked up once, when the outer interception begins
        with preserved(self.model), _computing_in("float32", self.model), intercept(_unexpected):
            with torch.enable_grad():
                yield forward

    @contextmanager
    def repeated(self, inputs: Inputs) -> Iterator[Callable[[Plan], Outcome]]:
        """Gives plan → ``run(plan, inputs, "float32")``, for many plans on the same few inputs.

        What comes before the first solve is computed once, and all inputs run at once.
        """
        with self.differentiable(inputs) as forward:

            def run(plan: Plan) -> Outcome:
                with torch.no_grad():
                    found = forward(plan)
                return Outcome(*({k: y.detach().numpy() for k, y in x.items()} for x in found))

            yield run

    def observe(self, plan: Plan, inputs: Inputs, visit: Visit) -> None:
        """Run ``plan`` in float64, showing each evaluation's field, time and states to ``visit``.

        ``visit`` may evaluate the field elsewhere. All inputs run at once.
        """
        handler = plan_handler(plan, self.model, visit=visit)
        self.forward(inputs, "float64", along(self.ways, handler))

    def module(self, plan: Plan) -> nn.Module:
        """The model under ``plan`` as a module: positional inputs → tuple of outputs, float32."""
        return _Planned(self, plan)

    def handler(
        self,
        plan: Plan,
        states: dict[str, Tensor] | None = None,
        attached: bool = False,
        slopes: Slopes | None = None,
    ) -> Handler:
        """Computes the solves of one forward by ``plan``, its gradients ``attached`` or cut."""
        return along(self.ways, plan_handler(plan, self.model, states, attached, slopes=slopes))

    def as_written(self, inputs: Inputs) -> tuple[Outcome, float]:
        """Outputs and final states of the model as its author wrote it, one input at a time.

        The second value is the mean number of field evaluations of an input, all solves together.
        """
        count = 0
        states: dict[str, Tensor] = {}

        def observe() -> None:
            nonlocal count
            count += 1

        def handler() -> Handler:
            sites = (f"solve{i}" for i in itertools.count())

            def handle(call: SolveCall) -> States:
                trajectories = call.run(observe)
                _note(states, next(sites), trajectories)
                return trajectories

            return handle

        found = []
        for part in self.parts(inputs, 1):
            outputs = self.forward(part, "float32", handler())
            final = {name: y.detach().numpy() for name, y in states.items()}
            found.append(Outcome(outputs, final))
        whole = Outcome(*(_concatenated([part[i] for part in found]) for i in range(2)))
        return whole, count / len(found)

    def state_axes(self) -> list[tuple[int | None, ...]]:
        """The batch axis of every state tensor of every solve, in the order of the calls.

        None for a tensor of the same shape at every batch size. Raises BadInput for one whose
        shape depends on the batch in another way than by one axis of its length.
        """
        calls: list[list[tuple[str, list[torch.Size]]]] = []

        def handle(call: SolveCall) -> States:
            calls[-1].append((call.location, [y.shape for y in call.initial]))
            return tuple(y.expand(len(call.times), *y.shape) for y in call.initial)

        for rows in BATCHES:
            calls.append([])
            self.forward(self._tiled(rows), "float32", along(self.ways, handle))
        return [
            tuple(_batch_axis(a, b, place) for a, b in zip(first, second, strict=True))
            for (place, first), (_, second) in zip(*calls, strict=True)
        ]

    def grams(self, plan: Plan, inputs: Inputs) -> list[list[np.ndarray]]:
        """Inner products of the slopes that the plan's alarm watches, in float64.

        One array (batch, m, m) for every watched state tensor of every residual, m being its
        slopes, which are computed in float32.
        """
        assert plan.alarm is not None
        parts = []
        for part in self.parts(inputs):
            slopes: Slopes = {}
            self.forward(part, "float32", self.handler(plan, slopes=slopes))
            parts.append(grams_of(plan.alarm, slopes))
        return [
            [np.concatenate(tensors) for tensors in zip(*residual, strict=True)]
            for residual in zip(*parts, strict=True)
        ]

    def _run(self, plan: Plan, inputs: Inputs, precision: str) -> Outcome:
        states: dict[str, Tensor] = {}
        slopes: Slopes | None = None if plan.alarm is None else {}
        outputs = self.forward(inputs, precision, self.handler(plan, states, slopes=slopes))
        monitors = {}
        if plan.alarm is not None and slopes is not None:
            monitors[plan.alarm.output] = alarm_of(plan.alarm, slopes).numpy()
        return Outcome(outputs, {name: y.numpy() for name, y in states.items()}, monitors)

    def forward(
        self, inputs: Inputs, precision: str, handler: Handler
    ) -> dict[str, np.ndarray]:
        """Outputs of all inputs at once, batch first, with the solves given to ``handler``."""
        tensors = {name: _tensor(array, precision) for name, array in inputs.items()}
        with preserved(self.model), _computing_in(precision, self.model), torch.enable_grad():
            with intercept(handler):
                result = flatten(self.model(**tensors))
        return {name: tensor.numpy() for name, tensor in self._batch_first(result).items()}

    def _batch_first(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: y.movedim(self.axes.get(name, 0), 0) for name, y in outputs.items()}

    def _tiled(self, rows: int) -> Inputs:
        """``rows`` rows of the example, repeated as it takes."""
        return {
            name: array if name in self.static else np.take(array, range(rows), 0, mode="wrap")
            for name, array in self.example.items()
        }

    def parts(self, inputs: Inputs, rows: int = ROWS) -> Iterator[Inputs]:
        """The inputs, ``rows`` at a time."""
        batched = [len(array) for name, array in inputs.items() if name not in self.static]
        for first in range(0, max(batched, default=1), rows):
            yield {
                name: array if name in self.static else array[first : first + rows]
                for name, array in inputs.items()
            }


class _Planned(nn.Module):
    def __init__(self, evaluator: TorchEvaluator, plan: Plan) -> None:
        super().__init__()
        self.model = evaluator.model
        self._forward = planned(self.model, plan, tuple(evaluator.example), evaluator.ways)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return self._forward(*tensors)


def planned(model: nn.Module, plan: Plan, names: tuple[str, ...], ways: Sequence[Way]) -> Forward:
    """``model`` under ``plan`` as a function of positional tensors; the plan's alarm comes last."""

    def forward(*tensors: Tensor) -> tuple[Tensor, ...]:
        slopes: Slopes | None = None if plan.alarm is None else {}
        with intercept(along(ways, plan_handler(plan, model, slopes=slopes))):
            outputs = tuple(flatten(model(**dict(zip(names, tensors, strict=True)))).values())
        if plan.alarm is None or slopes is None:
            return outputs
        return (*outputs, alarm_of(plan.alarm, slopes))

    return forward


def plan_handler(
    plan: Plan,
    model: nn.Module,
    states: dict[str, Tensor] | None = None,
    attached: bool = False,
    visit: Visit | None = None,
    slopes: Slopes | None = None,
) -> Handler:
    """A handler that computes the i-th solve of ``model`` by ``plan.solves[i]``.

    Final states are noted in ``states`` under ``site``, or ``site.i`` when there are several.
    Gradients are cut at every evaluation unless they are to stay ``attached``. ``visit`` is shown
    every evaluation before it is made. All slopes are noted in ``slopes``.
    """
    remaining = iter(plan.solves)

    def handle(call: SolveCall) -> States:
        chosen = next(remaining, None)
        if chosen is None:
            raise CaptureRefused(
                f"{call.location}: the model solves more ODEs than the {len(plan.solves)} of its "
                "plan; make the number of solves independent of the data."
            )
        field = call.field if attached else own_gradients(call.field)
        if visit is not None:
            field = _shown(field, chosen.site, visit)
        noted = None if slopes is None else slopes.setdefault(chosen.site, {})
        with torch.enable_grad() if attached else torch.no_grad():
            fields = own_fields(field, chosen.constants, model)
            trajectories = solve(chosen.program, fields, call.initial, noted)
        if states is not None:
            _note(states, chosen.site, trajectories)
        return trajectories

    return handle


def _shown(field: Field, site: str, visit: Visit) -> Field:
    def evaluate(t: Tensor, states: States) -> States:
        visit(site, field, t, states)
        return field(t, states)

    return evaluate


def _unexpected(call: SolveCall) -> States:
    return call.run(lambda: None)


def _note(states: dict[str, Tensor], site: str, trajectories: States) -> None:
    """Final states under ``site``, or ``site.i`` when there are several."""
    for i, trajectory in enumerate(trajectories):
        name = site if len(trajectories) == 1 else f"{site}.{i}"
        states[name] = trajectory[-1]


def _batch_axis(
    shape: tuple[int, ...], other: tuple[int, ...], location: str
) -> int | None:
    """Where two shapes differ: by the two of ``BATCHES``, at one place at most."""
    if shape == other:
        return None
    both = zip(shape, other, strict=False)
    places = [i for i, lengths in enumerate(both) if lengths[0] != lengths[1]]
    if len(shape) != len(other) or [(shape[i], other[i]) for i in places] != [BATCHES]:
        raise BadInput(
            f"{location}: a state of this solve has shape {tuple(shape)} in a batch of "
            f"{BATCHES[0]} and {tuple(other)} in one of {BATCHES[1]}, so there is no slope of one "
            "input to watch; give the state a batch axis, or leave out --alarm."
        )
    return places[0]


def _tensor(array: np.ndarray, precision: str) -> Tensor:
    tensor = torch.from_numpy(np.array(array))
    return tensor.to(getattr(torch, precision)) if tensor.is_floating_point() else tensor


def _concatenated(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@contextmanager
def _computing_in(precision: str, model: nn.Module) -> Iterator[None]:
    """New tensors, weights, buffers and plain tensor attributes in ``precision``.

    The model itself is converted, not a copy, because closures hold on to it. Weights get their
    own storage back; buffers and attributes are left to ``preserved``.
    """
    before = torch.get_default_dtype()
    weights = [(parameter, parameter.data) for parameter in model.parameters()]
    dtype = getattr(torch, precision)
    try:
        torch.set_default_dtype(dtype)
        for parameter, data in weights:
            if data.is_floating_point():
                parameter.data = data.to(dtype)
        for module in model.modules():
            for held in (module._buffers, vars(module)):
                for name, value in list(held.items()):
                    if isinstance(value, Tensor) and value.is_floating_point():
                        held[name] = value.to(dtype)
        yield
    finally:
        torch.set_default_dtype(before)
        for parameter, data in weights:
            parameter.data = data
