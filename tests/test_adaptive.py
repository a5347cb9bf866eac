"""The adaptive form against torchdiffeq's dopri5, and how it ends when it cannot reach its end."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from odegraphs import GRAPHS, Builder, Example, convolution, logistic, run
from torchdiffeq import odeint

from odedeploy.errors import BadInput, UnknownName
from odedeploy.graph import OdeGraph, Site
from odedeploy.lowering.adaptive import ESTIMATE, adaptive
from odedeploy.passes import clean
from odedeploy.program import Control, Plan
from odedeploy.solvers import SOLVERS

TIMES = {
    "forward": (0.0, 1.0),
    "reversed": (1.0, -0.5),
    "several": (0.0, 0.1, 0.3, 1.0),
    "several reversed": (1.0, 0.5, 0.4, -0.5),
}


def written(graph: OdeGraph, tolerance: float = 1e-4, **options: Any) -> ir.Model:
    return adaptive(graph, Plan((), control=Control(tolerance, **options)))


def solved(
    example: Example, inputs: dict[str, Any], times: tuple[float, ...], tol: float
) -> tuple[list[np.ndarray], int]:
    """The outputs with torchdiffeq's dopri5 as the solver, and its evaluations."""
    field, count = example.field(inputs), 0

    def f(t: torch.Tensor, y: Any) -> Any:
        nonlocal count
        count += 1
        single = not isinstance(y, tuple)
        slope = field(t.numpy(), y.numpy() if single else tuple(part.numpy() for part in y))
        return torch.from_numpy(slope) if single else tuple(map(torch.from_numpy, slope))

    start = example.initial(inputs)
    single = not isinstance(start, tuple)
    y0 = torch.from_numpy(start) if single else tuple(map(torch.from_numpy, start))
    grid = torch.tensor(times, dtype=torch.float64)
    path = odeint(f, y0, grid, rtol=tol, atol=tol, method="dopri5")
    states = [
        path[i].numpy() if single else tuple(part[i].numpy() for part in path)
        for i in range(len(times))
    ]
    return example.finish(states), count


@pytest.mark.parametrize("tol", (1e-3, 1e-6))
@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", GRAPHS)
def test_it_solves_as_torchdiffeq_does(name: str, times: str, tol: float) -> None:
    """Within ten tolerances of the truth, at no more than 1.3 times torchdiffeq's evaluations."""
    example = GRAPHS[name](np.float64, TIMES[times])
    inputs = example.inputs(4)
    *outputs, evaluations, converged = run(written(example.graph, tol), inputs)
    truth, _ = solved(example, inputs, TIMES[times], 1e-10)
    theirs, count = solved(example, inputs, TIMES[times], tol)
    for given, other, true in zip(outputs, theirs, truth, strict=True):
        assert given.shape == true.shape and given.dtype == true.dtype
        error, their_error = (np.abs(a - true).max() / np.abs(true).max() for a in (given, other))
        assert error <= max(10 * tol, 2 * their_error)
    assert converged == 1 and evaluations <= 1.3 * count


def test_states_in_between_are_of_fourth_order() -> None:
    """The trajectory at many times is as accurate as its last state."""
    times = tuple(np.linspace(0.0, 1.0, 9))
    example = GRAPHS["linear"](np.float64, times, last=False)
    inputs = example.inputs(3)
    trajectory, evaluations, _ = run(written(example.graph, 1e-7), inputs)
    truth, _ = solved(example, inputs, times, 1e-11)
    assert np.abs(trajectory - truth[0]).max() <= 1e-6
    alone = GRAPHS["linear"](np.float64, (0.0, 1.0))
    assert run(written(alone.graph, 1e-7), inputs)[-2] == evaluations, "times cost nothing"


@pytest.mark.parametrize("solver", ("ralston3", "tsit5", "dopri5"))
def test_every_pair_keeps_the_tolerance(solver: str) -> None:
    example = logistic(np.float64)
    inputs = example.inputs(5)
    given, evaluations, converged = run(written(example.graph, 1e-6, solver=solver), inputs)
    truth, _ = solved(example, inputs, (0.0, 1.0), 1e-11)
    assert converged == 1 and np.abs(given - truth[0]).max() <= 1e-5
    assert (evaluations - 2) % SOLVERS[solver].stages == 0


def test_torchdiffeq_counts_two_thirds_of_the_estimate() -> None:
    from torchdiffeq._impl.dopri5 import _DORMAND_PRINCE_SHAMPINE_TABLEAU as THEIRS

    pair = SOLVERS["dopri5"]
    ours = [float(a - b) for a, b in zip((*pair.b, 0), pair.b_low, strict=True)]
    assert np.allclose(ESTIMATE["dopri5"] * np.array(ours), THEIRS.c_error.numpy(), atol=1e-15)


def test_tolerance_and_budget_are_run_time_inputs() -> None:
    example = GRAPHS["stem_and_head"](np.float32)
    model, inputs = clean(written(example.graph, 1e-2)), example.inputs(3)
    options = {v.name for v in model.graph.inputs if v.is_initializer()}
    assert options == {"rtol", "atol", "max_evaluations"}
    counts = []
    for tol in (1e-1, 1e-3, 1e-5):
        tolerance = np.array(tol, np.float32)
        counts.append(int(run(model, {**inputs, "rtol": tolerance, "atol": tolerance})[-2]))
    assert counts == sorted(counts) and counts[0] < counts[-1]
    same = np.array(1e-2, np.float32)
    for a, b in zip(run(model, inputs), run(model, {**inputs, "rtol": same}), strict=True):
        assert np.array_equal(a, b)


def growing(power: int = 2) -> OdeGraph:
    """dy/dt = y², which leaves every bound at t = 1/y₀."""
    f, m = Builder(np.dtype(np.float32)), Builder(np.dtype(np.float32))
    t, y = f.value("t", []), f.value("y", ["batch", 1])
    slope = y
    for i in range(power - 1):
        slope = f.op("Mul", slope, y, name=f"slope{i}", like=y)
    x = m.value("x", ["batch", 1])
    (whole,) = m.solve("solve0", [x], [], 2)
    last = m.integers("last", -1)
    out = m.op("Gather", whole, last, name="out", shape=["batch", 1], axis=0)
    model = m.model([x], [out], [f.function("field0", [t, y], [slope])])
    return OdeGraph(model, (Site("solve0", "field0", (0.0, 1.0), 1, "dopri5"),))


@pytest.mark.parametrize("start", (2.0, np.nan, np.inf, 1e30))
def test_it_ends_where_there_is_no_solution(start: float) -> None:
    model, x = written(growing()), np.array([[start]], np.float32)
    out, evaluations, converged = run(model, {"x": x})
    assert converged == 0 and evaluations <= 10_000
    out, evaluations, converged = run(model, {"x": x, "max_evaluations": np.array(25)})
    assert converged == 0 and evaluations <= 25
    assert np.isfinite(out).all() == np.isfinite(start)


def test_no_evaluation_is_spent_on_a_budget_of_none() -> None:
    example = GRAPHS["linear"](np.float32)
    inputs = example.inputs(2)
    out, evaluations, converged = run(
        written(example.graph), {**inputs, "max_evaluations": np.array(7)}
    )
    assert (evaluations, converged) == (0, 0) and np.array_equal(out, inputs["x"])


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", GRAPHS)
def test_per_sample_answers_do_not_depend_on_batch_mates(name: str, times: str) -> None:
    example = GRAPHS[name](np.float64, TIMES[times])
    inputs = example.inputs(5)
    inputs["x"][1] *= 30
    alone = clean(written(example.graph))
    together = run(clean(written(example.graph, per_sample=True)), inputs)
    for i in range(5):
        single = run(alone, {key: array[i : i + 1] for key, array in inputs.items()})
        for one, all_ in zip(single, together, strict=True):
            assert np.array_equal(one.reshape(-1), all_[i].reshape(-1))
    assert together[-1].tolist() == [1] * 5


def test_cost_follows_the_problem() -> None:
    """A sample further out turns faster and takes more evaluations."""
    model = clean(written(growing(), 1e-5, per_sample=True))
    x = np.array([[0.01], [0.5], [0.9], [0.99]], np.float32)
    out, evaluations, converged = run(model, {"x": x})
    assert evaluations.tolist() == sorted(evaluations.tolist())
    assert evaluations[0] < evaluations[2] < evaluations[3]
    assert converged.tolist() == [1] * 4
    assert np.allclose(out, x / (1 - x), rtol=1e-2)


@pytest.mark.parametrize("rows", (False, True))
def test_weights_live_once_beside_the_evaluations(rows: bool) -> None:
    graph = convolution(channels=16)
    model = clean(written(graph, per_sample=rows))
    large = [
        value.name
        for body in model.graphs()
        for value in body.initializers.values()
        if value.const_value is not None and value.const_value.size > 2000
    ]
    assert len(large) == 1 and large[0].startswith("solve0.step")
    image = np.random.default_rng(0).standard_normal((2, 16, 5, 5)).astype(np.float32)
    exact = run(written(graph, 1e-7), {"x": image})[0]
    assert np.abs(run(model, {"x": image})[0] - exact).max() <= 1e-3 * np.abs(exact).max()


@pytest.mark.parametrize("name", GRAPHS)
def test_the_checker_accepts_it(name: str) -> None:
    example = GRAPHS[name](np.float32, TIMES["several"])
    for rows in (False, True):
        model = written(example.graph, per_sample=rows)
        onnx.checker.check_model(ir.to_proto(clean(model)), full_check=True)


def test_bad_input() -> None:
    graph = GRAPHS["linear"](np.float32).graph
    with pytest.raises(UnknownName, match="no solver 'dopri6'"):
        written(graph, solver="dopri6")
    with pytest.raises(BadInput, match="'rk4' has no embedded solution"):
        written(graph, solver="rk4")
    with pytest.raises(BadInput, match="does not reuse its last slope"):
        written(graph, solver="dopri8")
    several = GRAPHS["linear"](np.float32, TIMES["several"]).graph
    with pytest.raises(BadInput, match="'tsit5' has no interpolant"):
        written(several, solver="tsit5")
