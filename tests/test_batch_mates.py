"""No answer of an exported file depends on its batch mates, as it does with a shared step size.

Fixed steps are the same for every sample, and so are the steps of nobody else in the adaptive form
with ``per_sample``. torchdiffeq's dopri5, and the adaptive form that follows it, choose one step
for the whole batch by a norm over all of it: there an answer moves with its mates.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchdiffeq import odeint

import odedeploy
from odedeploy import api, models
from odedeploy.formats import find
from odedeploy.graph import OdeGraph
from odedeploy.grid import Grid
from odedeploy.lowering import FORMS
from odedeploy.program import Control, Plan, solve_plan
from odedeploy.solvers import find as find_solver
from odedeploy.tolerance import Tolerance, floor_of, relative_error

TOL = 1e-3
SHARED, OWN, THEIRS = "adaptive, shared steps", "adaptive, own steps", "torchdiffeq"
INDEPENDENT = [*(form for form in FORMS if form != "adaptive"), OWN]
DEPENDENT = [SHARED, THEIRS]
Answer = Callable[[np.ndarray], np.ndarray]


class Whirl(nn.Module):
    """y′ = (1 + |y|²) R y and a little drift in time: a sample further out turns faster."""

    def field(self, t: Tensor, y: Tensor) -> Tensor:
        turned = torch.stack([-y[:, 1], y[:, 0]], dim=1)
        return (1 + (y * y).sum(1, keepdim=True)) * turned - 0.2 * t * y

    def forward(self, y: Tensor) -> Tensor:
        times = torch.tensor([0.0, 1.0], dtype=y.dtype)
        return odeint(self.field, y, times, rtol=TOL, atol=TOL, method="dopri5")[-1]


def fixed(graph: OdeGraph, steps: int = 8) -> Plan:
    rk4, sites = find_solver("rk4"), graph.sites
    return Plan(tuple(solve_plan(s.name, rk4, Grid.through(s.times, steps)) for s in sites))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """What gives answers to a batch, by name: files of every form, and the model itself."""
    model, folder = Whirl().eval(), tmp_path_factory.mktemp("mates")
    graph = api.capture(model, np.ones((3, 2), np.float32))
    plans = {form: fixed(graph) for form in FORMS} | {
        SHARED: Plan((), control=Control(TOL)),
        OWN: Plan((), control=Control(TOL, per_sample=True)),
    }
    del plans["adaptive"]
    made: dict[str, Answer] = {THEIRS: lambda y: model(torch.from_numpy(y)).numpy()}
    for name, plan in plans.items():
        path = folder / f"{name}.onnx"
        find("onnx").build(graph, plan, name.partition(",")[0]).write(path, {})
        made[name] = running(path)
    return made


def running(path: Path) -> Answer:
    session = odedeploy.load(path, threads=1)
    return lambda y: session.run({session.inputs[0].name: y}, check=False)["output"]


SAMPLE = st.tuples(*[st.floats(-2, 2, width=32)] * 2)


@pytest.mark.parametrize("name", INDEPENDENT)
@settings(max_examples=40, deadline=None)
@given(sample=SAMPLE, mates=st.lists(SAMPLE, max_size=6), place=st.integers(0, 6))
def test_no_answer_depends_on_its_batch_mates(answers, name, sample, mates, place) -> None:
    place = min(place, len(mates))
    batch = np.array([*mates[:place], sample, *mates[place:]], np.float32)
    alone, among = answers[name](batch[place : place + 1]), answers[name](batch)[place : place + 1]
    assert moved(among, alone) <= Tolerance.FLOAT32


@pytest.mark.parametrize("name", DEPENDENT)
def test_with_shared_steps_answers_depend_on_their_mates(answers, name) -> None:
    """A calm sample is solved ten times as well in wild company: the answer is another one."""
    batch = np.array([[1.0, 0.0], [2.0, 0.5]], np.float32)
    alone, among = answers[name](batch[:1]), answers[name](batch)[:1]
    assert moved(among, alone) > 10 * Tolerance.FLOAT32


def test_they_all_solve_the_same_equation(answers) -> None:
    batch = np.array([[1.0, 0.0], [0.3, -0.9], [-0.5, 0.2]], np.float32)
    truth = answers[OWN](batch)
    assert all(moved(answer(batch), truth) <= 20 * TOL for answer in answers.values())


def moved(found: np.ndarray, before: np.ndarray) -> float:
    return float(relative_error(found, before, floor_of(before)).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", models.MODELS)
def test_no_answer_of_a_reference_model_depends_on_its_batch_mates(name, tmp_path) -> None:
    model, inputs = models.build(name)
    given = {key: array[:6] for key, array in inputs.items()}
    graph = api.capture(model, given)
    find("onnx").build(graph, fixed(graph, 2), "unrolled").write(tmp_path / "model.onnx", {})
    session = odedeploy.load(tmp_path / "model.onnx", threads=1)
    whole = session.run(given, check=False)
    alone = session.run({key: array[4:5] for key, array in given.items()}, check=False)
    assert all(moved(whole[key][4:5], alone[key]) <= 10 * Tolerance.FLOAT32 for key in alone)
