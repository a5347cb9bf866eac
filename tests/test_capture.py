"""Capture: what a model's author wrote, as an ODE graph, and the model left as it was."""

from __future__ import annotations

import copy
import inspect
import threading
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torchdiffeq
from pattern_outcomes import arrays, as_written, tight_plan
from patterns import PATTERNS, Field, Solver
from torch import Tensor, nn
from torchdiffeq import odeint

from odedeploy.errors import CaptureRefused, Diverged
from odedeploy.frontends import capture, intercept
from odedeploy.frontends.interception import SolveCall
from odedeploy.frontends.probing import probe
from odedeploy.program import interpret

FIXED_METHODS = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams")
OPTIONS: dict[str, dict[str, object]] = {
    "one step per interval": {},
    "step size": {"step_size": 0.3},
    "cubic interpolation": {"step_size": 0.3, "interp": "cubic"},
    "grid constructor": {"grid_constructor": lambda f, y, t: torch.linspace(t[0], t[-1], 8)},
    "perturbed": {"step_size": 0.25, "perturb": True},
}


def test_batch_axis_is_symbolic() -> None:
    model, inputs = PATTERNS["nonuniform_trajectory"]()
    graph = capture(model, arrays(inputs)).model.graph
    assert [str(n) for n in graph.inputs[0].shape] == ["batch", "3"]
    assert [str(n) for n in graph.outputs[0].shape] == ["5", "batch", "3"]


def test_weights_keep_their_names() -> None:
    model, inputs = PATTERNS["two_solves"]()
    graph = capture(model, arrays(inputs))
    assert {"first.net.0.bias", "second.net.0.bias"} <= set(graph.model.graph.initializers)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("method", FIXED_METHODS)
@pytest.mark.parametrize("times", [(0.0, 0.35, 0.5, 1.0), (1.0, 0.2, 0.0)], ids=str)
def test_fixed_step_call_is_kept_exactly(
    method: str, options: str, times: tuple[float, ...]
) -> None:
    settings = OPTIONS[options]

    def solver(field, initial, t):  # type: ignore[no-untyped-def]
        def function(time, y):  # type: ignore[no-untyped-def]
            return field(time, (y,))[0]

        return (odeint(function, initial[0], t, method=method, options=dict(settings)),)

    t = torch.tensor(times, dtype=torch.float64)
    plan = probe(solver, t, "solve0", method)
    y = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (expected,) = solver(lambda t, s: ((s[0] * 2).sin() * t.cos(),), (y,), t)
    found = interpret(plan.program, lambda t, y: np.sin(y * 2) * np.cos(t), y.numpy())
    tolerance = 1e-6 if "perturb" in settings else 1e-10  # a number aside in single precision
    np.testing.assert_allclose(np.stack(found), expected.numpy(), rtol=tolerance, atol=1e-12)


def test_fixed_rk4_keeps_the_sparse_form() -> None:
    solver = partial(_torchdiffeq, method="rk4", options={"step_size": 0.01})
    plan = probe(solver, torch.tensor([0.0, 1.0]), "solve0", "rk4")
    assert plan.program.evaluations == 400
    terms = [len(getattr(i, "terms", ())) for i in plan.program.instructions]
    assert sum(terms) <= 10 * 100


def test_adaptive_call_is_left_to_the_planner_and_fixed_call_on_request() -> None:
    model, inputs = PATTERNS["fixed_steps"]()
    assert capture(model, arrays(inputs)).sites[0].kept is not None
    assert capture(model, arrays(inputs), replan=True).sites[0].kept is None
    model, inputs = PATTERNS["adjoint"]()
    assert capture(model, arrays(inputs)).sites[0].kept is None


def test_implicit_method_that_iterates_is_refused() -> None:
    solver = partial(_torchdiffeq, method="implicit_adams", options={"step_size": 0.1})
    with warnings.catch_warnings(), pytest.raises(CaptureRefused, match="implicit_adams"):
        warnings.simplefilter("ignore")
        probe(solver, torch.tensor([0.0, 1.0]), "solve0", "implicit_adams")


def test_model_is_left_as_it_was() -> None:
    model, inputs = PATTERNS["convolution_with_norm_and_dropout"]()
    model.counter = Field()
    model.train()
    model.stem[0].weight.requires_grad_(False)
    before = copy.deepcopy(model)
    code = torchdiffeq.odeint.__code__
    random = torch.get_rng_state()
    capture(model, arrays(inputs))
    assert torch.equal(torch.get_rng_state(), random)
    assert torchdiffeq.odeint.__code__ is code
    for (name, new), old in zip(
        model.named_modules(), dict(before.named_modules()).values(), strict=True
    ):
        assert new.training == old.training, name
        assert set(vars(new)) == set(vars(old)), name
    for (name, new), old in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(new, old) and new.requires_grad == old.requires_grad, name
    for (name, new), old in zip(model.named_buffers(), before.buffers(), strict=True):
        assert torch.equal(new, old), name


def test_counters_in_the_field_are_restored() -> None:
    model, inputs = PATTERNS["name_bound_at_import"]()
    model.field.evaluations = 5
    capture(model, arrays(inputs))
    assert model.field.evaluations == 5


def test_interception_ends_after_an_error_and_nests() -> None:
    code = torchdiffeq.odeint.__code__
    model, inputs = PATTERNS["name_bound_at_import"]()

    def fail(call: SolveCall) -> tuple[Tensor, ...]:
        raise RuntimeError("handler")

    with pytest.raises(RuntimeError, match="handler"), intercept(fail), intercept(fail):
        model(**inputs)
    assert torchdiffeq.odeint.__code__ is code
    assert torchdiffeq.odeint_adjoint.__code__.co_name == "odeint_adjoint"


def test_other_threads_keep_the_library() -> None:
    model, inputs = PATTERNS["name_bound_at_import"]()
    expected = as_written(model, arrays(inputs))["output"]
    found: list[np.ndarray] = []

    def zero(call: SolveCall) -> tuple[Tensor, ...]:
        return tuple(torch.zeros(len(call.times), *y.shape) for y in call.initial)

    with intercept(zero), torch.no_grad():
        thread = threading.Thread(
            target=lambda: found.append(as_written(model, arrays(inputs))["output"])
        )
        thread.start()
        thread.join()
        assert not model(**inputs).any()
    np.testing.assert_array_equal(found[0], expected)


class Bent(nn.Module):
    """A model whose forward is given, with a field to call."""

    def __init__(self, forward) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.field = Field()
        self._forward = forward

    def forward(self, y: Tensor) -> Tensor:
        return self._forward(self.field, y)


UNIT = torch.tensor([0.0, 1.0])
REFUSED = {
    "field returns another shape": (
        lambda f, y: odeint(lambda t, x: f(t, x)[:, :2].sum(1), y, UNIT)[-1], "shape"),
    "event on the state": (
        lambda f, y: odeint(f, y, UNIT, event_fn=lambda t, x: x.sum())[1][-1], "event"),
    "times from the data": (
        lambda f, y: odeint(f, y, torch.stack([torch.tensor(0.0), y.abs().max()]))[-1], "times"),
    "one time": (lambda f, y: odeint(f, y, torch.tensor([0.0]))[-1], "times"),
    "nested solves": (
        lambda f, y: odeint(lambda t, x: odeint(f, x, UNIT)[-1], y, UNIT)[-1], "another ODE"),
    "solution thrown away": (lambda f, y: _ignored(f, y), "reach"),
    "number of solves depends on the data": (
        lambda f, y: odeint(f, odeint(f, y, UNIT)[-1] if y[0, 0] > 0 else y, UNIT)[-1], "solves"),
}


def _ignored(field: nn.Module, y: Tensor) -> Tensor:
    odeint(field, y, UNIT)
    return y


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_reason_and_the_line(name: str) -> None:
    forward, word = REFUSED[name]
    rows = np.array([[1, 2, 3], [1, 1, 1], [-1, 2, 3.5], [-1, 1, 2]], np.float32)
    with pytest.raises(CaptureRefused, match=word) as caught:
        capture(Bent(forward), {"y": rows})
    assert f"{inspect.getsourcefile(Bent)}:" in str(caught.value)


def test_diverging_solve_is_named() -> None:
    model = Bent(lambda f, y: odeint(lambda t, x: x**3 * 50, y, UNIT, method="euler",
                                     options={"step_size": 0.01})[-1])
    with pytest.raises(Diverged, match="diverges"):
        capture(model, {"y": np.full((4, 3), 9, np.float32)})


def test_float64_run_agrees_with_float32_to_single_precision() -> None:
    model, inputs = PATTERNS["time_expanded_and_embedded"]()
    graph = capture(model, arrays(inputs))
    plan = tight_plan(graph)
    single = graph.evaluator.run(plan, arrays(inputs), "float32")
    double = graph.evaluator.run(plan, arrays(inputs), "float64")
    assert double.outputs["output"].dtype == np.float64
    np.testing.assert_allclose(single.outputs["output"], double.outputs["output"], atol=1e-5)
    np.testing.assert_allclose(single.states["solve0"], double.states["solve0"], atol=1e-5)


def _torchdiffeq(field, initial, t, **settings):  # type: ignore[no-untyped-def]
    return (odeint(lambda time, y: field(time, (y,))[0], initial[0], t, **settings),)


def test_solver_is_reached_through_a_stored_function() -> None:
    model = Solver(odeint)
    model.solve = staticmethod(torchdiffeq.odeint).__func__
    graph = capture(model, {"y": np.ones((4, 3), np.float32)})
    assert len(graph.sites) == 1
