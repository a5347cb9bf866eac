"""Solver libraries: their networks and samplers, captured with none of their code changed."""

from __future__ import annotations

import copy
import inspect
import sys
import time
import types
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from library_models import MODELS
from torch import Tensor, nn

from odedeploy.errors import CaptureRefused
from odedeploy.formats import find
from odedeploy.frontends import capture, intercept
from odedeploy.frontends.interception import ADAPTERS, solver_functions
from odedeploy.frontends.recording import record
from odedeploy.graph import OdeGraph
from odedeploy.grid import Grid
from odedeploy.program import Plan, solve_plan
from odedeploy.solvers import SOLVERS

FIXED = {
    "torchdyn: euler trajectory": 7,
    "torchdyn: rk4 backwards": 16,
    "flow_matching: midpoint sample": 20,
    "flow_matching: exact likelihood": 20,
    "torchcde: linear rk4": 16,
    "torchode: fixed heun": 30,
}
"""Models with a fixed-step call and the evaluations that their library makes."""


SLOW = {"torchcfm: unet", "torchcde: hermite cubic"}
"""A large graph; a table that is looked up by time, for which every evaluation is traced."""

def _marked(name: str) -> object:
    return pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])


NAMES = [_marked(name) for name in MODELS]


@cache
def _captured(name: str) -> tuple[nn.Module, dict[str, np.ndarray], OdeGraph]:
    pytest.importorskip(name.partition(":")[0])
    model, inputs = MODELS[name]()
    arrays = {key: tensor.numpy() for key, tensor in inputs.items()}
    return model, arrays, capture(model, arrays)


def _fine(graph: OdeGraph) -> Plan:
    steps = 20 if graph.route == "symbolic" else 8
    return Plan(
        tuple(
            site.kept or solve_plan(site.name, SOLVERS["rk4"], Grid.through(site.times, steps))
            for site in graph.sites
        )
    )


def _as_written(model: nn.Module, inputs: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(**{k: torch.from_numpy(v) for k, v in inputs.items()}).numpy()


@pytest.mark.parametrize("name", NAMES)
def test_fine_plan_agrees_with_the_library(name: str) -> None:
    model, inputs, graph = _captured(name)
    outcome = graph.evaluator.run(_fine(graph), inputs, "float32").outputs["output"]
    expected = np.moveaxis(_as_written(model, inputs), graph.evaluator.axes["output"], 0)
    assert np.abs(outcome - expected).max() <= 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("name", NAMES)
def test_file_agrees_with_the_library_at_other_batch_sizes(name: str, tmp_path: Path) -> None:
    model, inputs, graph = _captured(name)
    find("onnx").build(graph, _fine(graph), "unrolled").write(tmp_path / "model.onnx", {})
    runner = find("onnx").open(tmp_path / "model.onnx")
    for rows in (1, 7):
        part = {key: array[-rows:] for key, array in inputs.items()}
        found, expected = runner.run(part)["output"], _as_written(model, part)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("name", [_marked(name) for name in FIXED])
def test_fixed_steps_are_kept_exactly(name: str) -> None:
    model, inputs, graph = _captured(name)
    (site,) = graph.sites
    assert site.kept is not None and site.kept.program.evaluations == FIXED[name]
    outcome = graph.evaluator.run(_fine(graph), inputs, "float32").outputs["output"]
    expected = np.moveaxis(_as_written(model, inputs), graph.evaluator.axes["output"], 0)
    np.testing.assert_allclose(outcome, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in MODELS if n not in {*FIXED, *SLOW}])
def test_adaptive_calls_are_planned_anew(name: str) -> None:
    _, _, graph = _captured(name)
    assert [site.kept for site in graph.sites] == [None]


@pytest.mark.parametrize("name", NAMES)
def test_call_site_is_a_line_of_the_model(name: str) -> None:
    _, _, graph = _captured(name)
    assert graph.sites[0].location.startswith(f"{sys.modules['library_models'].__file__}:")


class Refused(nn.Module):
    def __init__(self, forward) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.net = nn.Linear(3, 3)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self.net, x)


def _event(net: nn.Module, x: Tensor) -> Tensor:
    from torchdiffeq import odeint_event

    return odeint_event(
        lambda t, y: net(y), x, torch.tensor(0.0), event_fn=lambda t, y: y.sum() - 1
    )[1][-1]


def _own_times(net: nn.Module, x: Tensor) -> Tensor:
    torchode = pytest.importorskip("torchode")
    start = torch.zeros(x.shape[0])
    span = (start, start + torch.arange(1.0, 1.0 + x.shape[0]))
    return torchode.solve_ivp(lambda t, y: net(y), x, None, t_span=span).ys[:, -1]


def _late(net: nn.Module, x: Tensor) -> Tensor:
    torchode = pytest.importorskip("torchode")
    span = (torch.tensor(0.0), torch.tensor(1.0))
    times = torch.tensor([0.5, 1.0])
    return torchode.solve_ivp(lambda t, y: net(y), x, times, t_span=span).ys[:, -1]


def _torchdyn(name: str, **arguments):  # type: ignore[no-untyped-def]
    def forward(net: nn.Module, x: Tensor) -> Tensor:
        numerics = pytest.importorskip("torchdyn.numerics")
        span = torch.linspace(0, 1, 3)
        return getattr(numerics, name)(lambda t, y: net(y), x, span, **arguments)[1][-1]

    return forward


def _stochastic(net: nn.Module, x: Tensor) -> Tensor:
    torchsde = pytest.importorskip("torchsde")
    net.noise_type, net.sde_type = "diagonal", "ito"
    net.f, net.g = (lambda t, y: net(y)), (lambda t, y: torch.ones_like(y))
    return torchsde.sdeint(net, x, torch.tensor([0.0, 1.0]))[-1]


REFUSED = {
    "torchdiffeq: event": (_event, "event"),
    "torchode: times per sample": (_own_times, "times of their own"),
    "torchode: evaluated later than the start": (_late, "t_start"),
    "torchdyn: implicit Euler": (_torchdyn("odeint", solver="ieuler"), "ImplicitEuler"),
    "torchdyn: leapfrog": (_torchdyn("odeint", solver="alf"), "symplectic"),
    "torchdyn: selected times": (_torchdyn("odeint", solver="euler", save_at=[1.0]), "save_at"),
    "torchdyn: multiple shooting": (_torchdyn("odeint_mshooting", solver="mszero"), "shooting"),
    "torchsde: stochastic": (_stochastic, "stochastic"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_reason_and_the_line(name: str) -> None:
    forward, word = REFUSED[name]
    with pytest.raises(CaptureRefused, match=word) as caught:
        capture(Refused(forward), {"x": np.ones((4, 3), np.float32)})
    assert f"{inspect.getsourcefile(Refused)}:" in str(caught.value)


def test_every_adapter_undoes_its_exchange() -> None:
    for library in ADAPTERS:
        pytest.importorskip(library)
    functions = _solvers()
    before = [function.__code__ for function in functions]
    with intercept(lambda call: call.run(lambda: None)):
        during = [function.__code__ for function in functions]
    assert not any(a is b for a, b in zip(before, during, strict=True))
    assert all(a.__code__ is b for a, b in zip(functions, before, strict=True))


def _solvers() -> list[types.FunctionType]:
    import torchdiffeq
    import torchdyn.numerics
    import torchode
    import torchsde
    import zuko.utils

    return [
        torchdiffeq.odeint, torchdiffeq.odeint_adjoint, torchdiffeq.odeint_dense,
        torchdyn.numerics.odeint, torchdyn.numerics.odeint_hybrid, torchsde.sdeint,
        torchode.AutoDiffAdjoint.solve, zuko.utils.odeint,
    ]


def _vendored(monkeypatch: pytest.MonkeyPatch, source: str) -> types.ModuleType:
    """A copy of torchdiffeq's odeint, edited, in a module of its own."""
    module = types.ModuleType("project_odeint")
    monkeypatch.setitem(sys.modules, "project_odeint", module)
    exec(compile(source, "project/odeint.py", "exec"), module.__dict__)
    return module


COPY = """
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.misc import _check_inputs

def odeint(func, y0, t, rtol=1e-7, atol=1e-9, method=None, options=None):
    _, func, y0, t, rtol, atol, method, options, _, _ = _check_inputs(
        func, y0, t, rtol, atol, method, options, None, SOLVERS)
    return SOLVERS[method](func=func, y0=y0, rtol=rtol, atol=atol, **options).integrate(t)
"""


@pytest.mark.parametrize(("method", "evaluations"), [("dopri5", None), ("rk4", 16)])
def test_vendored_copy_is_caught(
    monkeypatch: pytest.MonkeyPatch, method: str, evaluations: int | None
) -> None:
    copied = _vendored(monkeypatch, COPY)
    times = torch.linspace(0, 1, 5)
    model = Refused(lambda net, x: copied.odeint(lambda t, y: net(y) * t, x, times, 1e-6, 1e-6,
                                                 method)[-1])
    recording = record(model, {"x": torch.ones(2, 3)})
    assert [call.method for call in recording.calls] == [method]
    assert (recording.calls[0].kept is None) == (evaluations is None)
    graph = capture(model, {"x": np.ones((4, 3), np.float32)})
    assert evaluations is None or graph.sites[0].kept.program.evaluations == evaluations


def test_function_that_only_looks_like_odeint_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = COPY.replace("import SOLVERS", "import SOLVERS as TABLE").replace("SOLVERS[", "TABLE[")
    _vendored(monkeypatch, source.replace("None, SOLVERS", "None, TABLE"))
    assert "project_odeint.odeint" not in solver_functions()


def test_search_for_solvers_is_quick() -> None:
    solver_functions()
    best = min(_seconds(solver_functions) for _ in range(5))
    assert best < 0.01


def _seconds(function) -> float:  # type: ignore[no-untyped-def]
    start = time.thread_time()
    function()
    return time.thread_time() - start


def test_library_imported_inside_forward_is_caught(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "late_odeint.py").write_text(COPY)
    monkeypatch.syspath_prepend(tmp_path)

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        from late_odeint import odeint

        return odeint(lambda t, y: net(y), x, torch.tensor([0.0, 1.0]))[-1]

    try:
        assert len(record(Refused(forward), {"x": torch.ones(2, 3)}).calls) == 1
    finally:
        sys.modules.pop("late_odeint", None)


def test_library_model_is_left_as_it_was() -> None:
    pytest.importorskip("torchdyn")
    model, inputs = MODELS["torchdyn: rk4 backwards"]()
    before = copy.deepcopy(model.state_dict())
    dtype = model.solver.solver.tableau[0].dtype
    capture(model, {key: tensor.numpy() for key, tensor in inputs.items()})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.solver.solver.tableau[0].dtype == dtype
    assert model.solver.vf.nfe == 0
