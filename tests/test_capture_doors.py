"""What is asked of capture besides a model: noise, static inputs, a lone field; and mishaps."""

from __future__ import annotations

import copy
import importlib
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
import torchdiffeq
from pattern_base import Conditioned, Field, Model, mlp, unit
from pattern_outcomes import arrays, tight_plan
from patterns import PATTERNS
from torch import Tensor, nn
from torchdiffeq import odeint

import odedeploy
from odedeploy.errors import BadInput, CaptureRefused, UnknownName
from odedeploy.frontends import capture, interception, live
from odedeploy.frontends.aligning import align, holds
from odedeploy.frontends.noise import Noisy
from odedeploy.graph import OdeGraph, input_specs, output_specs
from odedeploy.lowering import FORMS, lower
from odedeploy.reference import solve as solve_reference

ROWS = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def run(graph: OdeGraph, **inputs: Any) -> np.ndarray:
    return live(graph).run(tight_plan(graph), inputs, "float32").outputs["output"]


# -- noise ------------------------------------------------------------------------------------


def test_noise_is_refused_until_something_is_chosen() -> None:
    model, inputs = PATTERNS["noise_in_forward"]()
    with pytest.raises(CaptureRefused, match=r"pattern_autograd\.py:\d+: .*randn.*--noise fixed"):
        capture(model, arrays(inputs))
    with pytest.raises(BadInput, match="'frozen'"):
        capture(model, arrays(inputs), noise="frozen")


def test_fixed_noise_is_the_same_in_every_run_and_row() -> None:
    model, inputs = PATTERNS["noise_in_forward"]()
    graph = capture(model, arrays(inputs), noise="fixed")
    row = np.repeat(arrays(inputs)["y"][:1], 5, 0)
    first, second = run(graph, y=row), run(graph, y=row)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, first[:1].repeat(5, 0), atol=1e-6)


def test_noise_as_an_input_is_named_and_filled_in() -> None:
    model, inputs = PATTERNS["noise_as_input"]()
    graph = capture(model, arrays(inputs), noise="input")
    assert [spec.name for spec in input_specs(graph.model)] == ["y", "noise_0"]
    noisy = live(graph).model
    assert isinstance(noisy, Noisy)
    filled = noisy.filled(arrays(inputs))
    assert filled["noise_0"].shape == (8, 2) and filled["noise_0"].std() > 0.3
    still = run(graph, y=filled["y"], noise_0=np.zeros((8, 2), np.float32))
    assert np.abs(run(graph, **filled) - still).max() > 1e-2


@pytest.mark.parametrize(
    "draw",
    [lambda y: torch.empty_like(y).normal_(1.0, 2.0), lambda y: torch.rand(len(y), 3),
     lambda y: torch.empty(len(y), 3).uniform_(-1, 1)],
    ids=["normal_", "rand", "uniform_"],
)  # fmt: skip
def test_every_draw_keeps_its_distribution(draw: Callable[[Tensor], Tensor]) -> None:
    model = Model(lambda m, y: odeint(m.field, y * 0 + draw(y), unit())[0], field=Field())
    graph = capture(model, {"y": ROWS}, noise="input")
    noisy = live(graph).model
    many = np.zeros((4000, 3), np.float32)
    noise = noisy.filled({"y": many})["noise_0"]  # type: ignore[operator]
    wanted = draw(torch.from_numpy(many))
    assert abs(noise.mean() - float(wanted.mean())) < 0.1
    assert abs(noise.std() - float(wanted.std())) < 0.1
    np.testing.assert_allclose(run(graph, y=many, noise_0=noise), noise, atol=1e-6)


NOISE_REFUSED: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], str]] = {
    "in the field": (
        lambda m, y: odeint(lambda t, x: m(t, x) + torch.randn_like(x), y, unit(),
                            method="euler")[-1], "no ODE"),
    "not per row": (lambda m, y: odeint(m, y + torch.randn(3), unit())[-1], "per input"),
    "without a density": (
        lambda m, y: odeint(m, y * torch.bernoulli(torch.full_like(y, 0.5)), unit())[-1],
        "bernoulli"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOISE_REFUSED)
def test_noise_that_cannot_be_given_is_refused(name: str) -> None:
    forward, word = NOISE_REFUSED[name]
    with pytest.raises(CaptureRefused, match=rf"test_capture_doors\.py:\d+: .*{word}"):
        capture(Model(lambda m, y: forward(m.field, y), field=Field()), {"y": ROWS}, noise="input")


# -- times and static inputs ------------------------------------------------------------------


KNOTS = np.array([0.1, 0.4, 0.5, 1.0], np.float32)
BY_TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "the input itself": lambda c: c,
    "a part": lambda c: c[1:3],
    "backwards": lambda c: c.flip(0),
    "its end": lambda c: torch.stack([c.new_zeros(()), c[-1]]),
    "written into place": lambda c: _written(c),
    "sums of gaps": lambda c: torch.cumsum(c, 0),
    "sorted": lambda c: torch.sort(c).values,
}


def _written(c: Tensor) -> Tensor:
    times = torch.zeros(3)
    times[1:] = c[:2] * 2
    return times


def conditioned(pick: Callable[[Tensor], Tensor]) -> Conditioned:
    return Conditioned(lambda m, y, c: odeint(m.field, y, pick(c)), field=Field())


@pytest.mark.parametrize("name", BY_TENSORS)
def test_times_from_an_input_stay_an_input(name: str) -> None:
    pick = BY_TENSORS[name]
    model = conditioned(pick)
    graph = capture(model, {"y": ROWS, "c": KNOTS}, {"c"})
    assert [s.interval for s in graph.sites] == list(range(len(pick(torch.from_numpy(KNOTS))) - 1))
    assert len(graph.model.functions) == 1
    for times in (KNOTS, KNOTS * 0.7 + 0.2):
        found = run(graph, y=ROWS, c=times)
        with torch.no_grad():
            expected = model(torch.from_numpy(ROWS), torch.from_numpy(times)).transpose(0, 1)
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("name", BY_TENSORS)
def test_times_from_a_row_of_the_batch_are_refused(name: str) -> None:
    model = conditioned(lambda c: BY_TENSORS[name](c[0]))
    with pytest.raises(CaptureRefused, match=r"test_capture_doors\.py:\d+: .*'c'.*--static c"):
        capture(model, {"y": ROWS, "c": np.tile(KNOTS, (8, 1))})


def test_input_that_equals_constant_times_is_not_taken_for_them() -> None:
    times = torch.from_numpy(KNOTS)
    model = Conditioned(lambda m, y, c: odeint(m.field, y, times)[-1] + c[-1], field=Field())
    (site,) = capture(model, {"y": ROWS, "c": KNOTS}, {"c"}).sites
    assert site.interval is None and site.times == tuple(KNOTS.astype(float))


def test_shape_and_dtype_of_an_input_leave_times_constant() -> None:
    def times(c: Tensor) -> Tensor:
        steps = torch.linspace(0, 1, 3).to(c) * torch.ones_like(c[:3])
        return torch.cat([steps, c.new_full((1,), 2.0)])

    (site,) = capture(conditioned(times), {"y": ROWS, "c": KNOTS}, {"c"}).sites
    assert site.interval is None and site.times == (0.0, 0.5, 1.0, 2.0)


READ: dict[str, tuple[Callable[[Tensor], Tensor], Any]] = {
    "a float": (lambda c: torch.tensor([0.0, float(c[-1])]), KNOTS),
    "an array": (lambda c: torch.tensor(c.numpy()), KNOTS),
    "a whole number": (lambda c: torch.tensor([0.0, 1.0 + c.item()]), np.int64(2)),
    "a number of times": (lambda c: torch.linspace(0, 1, int(c)), np.int64(3)),
    "a branch": (lambda c: torch.arange(3.0) if c == 3 else torch.arange(2.0), np.int64(3)),
    "an index": (lambda c: torch.tensor([[0.0, 1.0], [0.0, 2.0]][int(c)]), np.int64(1)),
}


@pytest.mark.parametrize("name", READ)
def test_times_by_way_of_python_numbers_are_refused(name: str) -> None:
    pick, given = READ[name]
    with pytest.raises(CaptureRefused, match=r"test_capture_doors\.py:\d+: .*Python"):
        capture(conditioned(pick), {"y": ROWS, "c": given}, {"c"})


def test_as_many_times_for_all_inputs() -> None:
    model = conditioned(lambda c: c[: 2 + int(c[0] > 0.1001)])
    with pytest.raises(CaptureRefused, match=r"test_capture_doors\.py:\d+: the number of times"):
        capture(model, {"y": ROWS, "c": KNOTS}, {"c"})


KEPT: dict[str, dict[str, Any]] = {
    "step size": {"method": "rk4", "options": {"step_size": 0.05}},
    "long step": {"method": "euler", "options": {"step_size": 0.7}},
    "multi-step": {"method": "explicit_adams"},
    "own grid": {"method": "euler", "options": {"grid_constructor": lambda f, y, t: t}},
}


@pytest.mark.parametrize("name", KEPT)
def test_fixed_steps_that_depend_on_run_time_times_are_refused(name: str) -> None:
    model = Conditioned(lambda m, y, c: odeint(m.field, y, c, **KEPT[name])[-1], field=Field())
    given = {"y": ROWS, "c": KNOTS}
    with pytest.raises(CaptureRefused, match=r"test_capture_doors\.py:\d+: .*--replan"):
        capture(model, given, {"c"})
    assert not any(site.kept for site in capture(model, given, {"c"}, replan=True).sites)


def test_unbatched_input_is_asked_for_by_name() -> None:
    model, inputs = PATTERNS["dense_graph"]()
    with pytest.raises(BadInput, match="y has 8, c has 6.*--static NAME"):
        capture(model, arrays(inputs))
    with pytest.raises(BadInput, match="no input 'd'"):
        capture(model, arrays(inputs), {"d"})


def test_output_that_does_not_follow_the_batch_is_refused() -> None:
    model = Model(lambda m, y: odeint(m.field, y, unit())[-1].mean(0), field=Field())
    with pytest.raises(CaptureRefused, match=r"\.py:\d+: the output 'output' has the fixed shape"):
        capture(model, {"y": ROWS})


# -- the batch --------------------------------------------------------------------------------


def flat(forward: Callable[[Tensor], Tensor], batch: int) -> torch.fx.GraphModule:
    return torch.fx.experimental.proxy_tensor.make_fx(forward)(torch.ones(batch, 3))


def test_two_traces_tell_the_batch_from_other_integers() -> None:
    def forward(y: Tensor) -> Tensor:
        zeros = torch.zeros(len(y), 13)
        return torch.cat([zeros, y.repeat(2, 1)[: len(y)], y.new_ones(2 * len(y) - 3, 3)[:1]
                          .expand(len(y), 3)], 1) / len(y)  # fmt: skip

    first, second = flat(forward, 11), flat(forward, 13)
    assert holds(first, 11)
    merged = align(first, second, (11, 13), 0)
    for batch in (2, 5, 13, 40):
        y = torch.randn(batch, 3)
        torch.testing.assert_close(merged(y), forward(y))


@pytest.mark.parametrize(
    ("forward", "word"),
    [(lambda y: y * 1.5 if len(y) > 12 else y + 1, "operations"),
     (lambda y: y * (len(y) ** -0.5), "another batch size"),
     (lambda y: y.new_zeros(len(y) ** 2).sum() + y, "follow")],
    ids=["branch", "float", "square"],
)  # fmt: skip
def test_what_is_not_affine_in_the_batch_is_not_mended(
    forward: Callable[[Tensor], Tensor], word: str
) -> None:
    with pytest.raises(ValueError, match=word):
        align(flat(forward, 11), flat(forward, 13), (11, 13), 0)


# -- models without a symbolic field, and without a solve ----------------------------------------


def test_traced_graph_writes_the_unrolled_form_only() -> None:
    model, inputs = PATTERNS["branch_on_time"]()
    graph = capture(model, arrays(inputs))
    assert graph.route == "traced"
    assert [s.shape for s in output_specs(graph.model)] == [("batch", 3)]
    for form in FORMS:
        if form != "unrolled":
            with pytest.raises(BadInput, match=form):
                lower(graph, tight_plan(graph), form)
    with pytest.raises(UnknownName):
        lower(graph, tight_plan(graph), "rolled")


def test_branch_on_the_state_is_refused() -> None:
    def field(t: Tensor, x: Tensor) -> Tensor:
        return -x if x.sum() > 0 else x

    model = Model(lambda m, y: odeint(field, y, unit(), method="euler")[-1])
    with pytest.raises(CaptureRefused, match=r"test_capture_doors\.py:\d+: .*branches"):
        capture(model, {"y": ROWS})


def test_model_without_a_solve_has_an_empty_plan() -> None:
    model, inputs = PATTERNS["no_solve"]()
    graph = capture(model, arrays(inputs))
    assert graph.sites == () and tight_plan(graph).evaluations == 0
    reference = solve_reference(live(graph), (), arrays(inputs), 1e-3)
    assert reference.evaluations == 0


# -- a field on its own -----------------------------------------------------------------------


class Velocity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(4, 3)

    def forward(
        self, t: Tensor, x: Tensor, label: Tensor | None = None, scale: Tensor | None = None
    ) -> Tensor:
        slope = self.net(torch.cat([x, t.expand(x.shape[0], 1)], 1))
        slope = slope if label is None else slope + label
        return slope if scale is None else slope * scale

    def method(self, t: Tensor, x: Tensor) -> Tensor:
        return self(t, x)


velocity = Velocity()


def through_globals(t: Tensor, x: Tensor) -> Tensor:
    return velocity(t, x)


def _through_a_closure() -> Callable[..., Tensor]:
    held = velocity
    return lambda t, x: held(t, x)


FIELDS = {
    "module": velocity, "method": velocity.method, "globals": through_globals,
    "closure": _through_a_closure(),
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_captured_without_a_solver_library(name: str) -> None:
    graph = odedeploy.capture_field(FIELDS[name], ROWS, 0.0, 1.0)
    assert graph.sites[0].times == (0.0, 1.0) and graph.sites[0].kept is None
    with torch.no_grad():
        expected = odeint(velocity, torch.from_numpy(ROWS), unit())[-1].numpy()
    np.testing.assert_allclose(run(graph, x=ROWS), expected, atol=1e-3)
    double = live(graph).run(tight_plan(graph), {"x": ROWS}, "float64").outputs["output"]
    assert double.dtype == np.float64
    np.testing.assert_allclose(double, expected, atol=1e-3)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in velocity.parameters())


def test_conditions_stay_inputs() -> None:
    label = np.ones((8, 3), np.float32)
    graph = odedeploy.capture_field(velocity, ROWS, 1.0, 0.0, label=label, scale=2.0)
    assert [(s.name, s.shape) for s in input_specs(graph.model)] == [
        ("x", ("batch", 3)), ("label", ("batch", 3)), ("scale", ())]  # fmt: skip
    still = run(graph, x=ROWS, label=label, scale=np.float32(0.0))
    np.testing.assert_allclose(still, ROWS, atol=1e-6)
    assert np.abs(run(graph, x=ROWS, label=label, scale=np.float32(1.0)) - ROWS).max() > 0.1


def test_a_field_that_cannot_be_solved_is_named() -> None:
    with pytest.raises(BadInput, match="distinct"):
        odedeploy.capture_field(velocity, ROWS, 1.0, 1.0)
    with pytest.raises(BadInput, match="int"):
        odedeploy.capture_field(3, ROWS, 0.0, 1.0)


# -- mishaps ----------------------------------------------------------------------------------

STEPS = (
    ("odedeploy.frontends", "record"), ("odedeploy.frontends", "sites"),
    ("odedeploy.frontends", "trace"), ("odedeploy.frontends", "assemble"),
    ("odedeploy.frontends", "TorchEvaluator"), ("odedeploy.frontends.recording", "probe"),
    ("odedeploy.frontends.recording", "own_gradients"),
    ("odedeploy.frontends.markers", "own_gradients"), ("odedeploy.frontends.tracing", "make_fx"),
    ("odedeploy.frontends.tracing", "exported"), ("odedeploy.frontends.interception", "_shim"),
)  # fmt: skip


ONCE = {"sites", "trace", "assemble", "TorchEvaluator", "probe", "make_fx", "exported"}
"""Steps taken once in a capture; the others are killed the second time."""


class Killed(BaseException):
    """What no handler expects."""


@dataclass
class Left:
    """A model in training with hooks, counters and frozen weights, and what must stay as it is."""

    model: nn.Module
    inputs: dict[str, np.ndarray]
    before: nn.Module
    state: tuple[Any, ...]

    @classmethod
    def behind(cls) -> Left:
        model, inputs = PATTERNS["fixed_and_adaptive"]()
        model.register_buffer("seen", torch.zeros(3))
        forward = model._forward
        model._forward = lambda m, y: (m.seen.add_(1), np.random.rand(), forward(m, y))[-1]
        model.train()
        model.first.net[1].eval()
        model.first.evaluations = 3
        model.first.net[0].weight.requires_grad_(False)
        model.first.register_forward_hook(_hook)
        return cls(model, arrays(inputs), copy.deepcopy(model), _surroundings())

    def check(self) -> None:
        for new, old in zip(_surroundings(), self.state, strict=True):
            assert torch.equal(new, old) if isinstance(new, Tensor) else new == old
        pairs = zip(self.model.named_modules(), self.before.modules(), strict=True)
        for (name, new), old in pairs:
            assert new.training == old.training and vars(new).keys() == vars(old).keys(), name
        for new, old in zip(self.model.parameters(), self.before.parameters(), strict=True):
            assert torch.equal(new, old) and new.requires_grad == old.requires_grad
            assert new.grad is None
        assert not self.model.seen.any() and self.model.first.evaluations == 3
        assert list(self.model.first._forward_hooks.values()) == [_hook]


def _hook(module: nn.Module, args: Any, output: Tensor) -> None:
    module.hooked = True


def _surroundings() -> tuple[Any, ...]:
    return (
        torchdiffeq.odeint.__code__, torchdiffeq.odeint_adjoint.__code__,
        torchdiffeq.odeint_dense.__code__, torch.is_grad_enabled(), torch.get_default_dtype(),
        torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes(),
        torch.overrides._len_torch_function_stack(), torch._C._len_torch_dispatch_stack(),
    )  # fmt: skip


def test_model_and_libraries_are_as_before_after_a_capture() -> None:
    left = Left.behind()
    capture(left.model, left.inputs)
    left.check()


@pytest.mark.parametrize(("module", "step"), STEPS, ids=lambda value: value.rpartition(".")[2])
def test_everything_is_as_before_when_capture_is_killed(
    monkeypatch: pytest.MonkeyPatch, module: str, step: str
) -> None:
    left = Left.behind()
    room = importlib.import_module(module)
    original, calls = getattr(room, step), []

    def kill(*args: Any, **kwargs: Any) -> Any:
        calls.append(step)
        if len(calls) > 1 or step in ONCE:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(room, step, kill)
    with pytest.raises(Killed):
        capture(left.model, left.inputs)
    left.check()


ROOM = str(Path(interception.__file__).parent)
UNDOING = {"_release", "_restore"}
"""Killed in the act of undoing, nothing can be promised."""


@pytest.mark.slow
def test_everything_is_as_before_when_any_function_of_capture_is_killed() -> None:
    reached: dict[tuple[str, int], str] = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ROOM):
            reached.setdefault(_place(frame), frame.f_code.co_name)

    left = Left.behind()
    with interception.intercept(lambda call: call.initial):
        pass  # adapters are imported
    _profiled(note, lambda: capture(left.model, left.inputs))
    assert len(reached) > 80
    for place in [place for place, name in reached.items() if name not in UNDOING]:

        def kill(frame: FrameType, event: str, _: Any, place: tuple[str, int] = place) -> None:
            if event == "call" and _place(frame) == place:
                sys.setprofile(None)
                raise Killed

        left = Left.behind()
        with pytest.raises(Killed):
            _profiled(kill, lambda left=left: capture(left.model, left.inputs))
        left.check()


def _place(frame: FrameType) -> tuple[str, int]:
    return frame.f_code.co_filename, frame.f_code.co_firstlineno


def _profiled(watch: Any, run: Callable[[], Any]) -> None:
    sys.setprofile(watch)
    try:
        run()
    finally:
        sys.setprofile(None)
