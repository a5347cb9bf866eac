"""Gradients of training: what tolerances they need, and the checkpointed adjoint."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from tiny_training import RECIPE, tiny
from torch import nn
from torchdiffeq import odeint, odeint_adjoint

from odedeploy import models
from odedeploy.errors import BadInput
from odedeploy.models import checkpoint, gradients, mnist_odenet, training
from odedeploy.models.solves import checkpointed, segmented, standing_in
from odedeploy.models.tasks import Recipe, Task


class Pendulum(nn.Module):
    """y(2) of dθ/dt = ω, dω/dt = −k sin θ for rows y0 of θ and ω, (n, 2); k is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(4.0))
        self.tolerance = self.adjoint_tolerance = 1e-2
        self.evaluations = 0

    def field(self, t, y):
        self.evaluations += 1
        return torch.stack([y[:, 1], -self.stiffness * torch.sin(y[:, 0])], dim=1)

    def forward(self, y0):
        times = torch.tensor([0.0, 2.0], dtype=y0.dtype)
        return odeint_adjoint(
            self.field, y0, times, adjoint_params=(self.stiffness,), method="dopri5",
            rtol=self.tolerance, atol=self.tolerance,
            adjoint_rtol=self.adjoint_tolerance, adjoint_atol=self.adjoint_tolerance,
        )[-1]  # fmt: skip


def swinging(recipe: Recipe) -> Task:
    """Four steps an epoch on 32 starts whose ends are known for a stiffness of 3."""
    starts = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))
    true = Pendulum()
    true.stiffness.data.fill_(3.0)
    with torch.no_grad():
        ends = true(starts)

    def loss(model, batch):
        return (model(batch[0]) - batch[1]).square().mean(), {}

    return Task(
        name="pendulum",
        model=Pendulum,
        size=32,
        batch=lambda rows, generator: (starts[rows], ends[rows]),
        loss=loss,
        held_out=lambda model: {},
        test=lambda model: {},
        recipe=recipe,
        data={},
    )


SWINGING = Recipe(epochs=2, tolerances=(1e-2, 1e-2), batch=8)


@pytest.fixture
def given():
    """A task, its model and one batch."""
    task = swinging(SWINGING)
    return task, task.model(), task.batch(torch.arange(16), torch.Generator())


def exact_gradient(given):
    task, model, batch = given
    precise = tuple(part.double() for part in batch)
    return gradients.gradient(task, deepcopy(model).double(), precise, 1e-11, 1e-11)[0]


def test_a_gradient_nears_that_of_tight_solves(given):
    task, model, batch = given
    exact, distances, counts = exact_gradient(given), [], []
    for tolerance in (1e-1, 1e-3, 1e-5):
        found, evaluations = gradients.gradient(task, model, batch, tolerance, tolerance)
        distances.append(((found.double() - exact).norm() / exact.norm()).item())
        counts.append(evaluations)
    assert distances[2] < distances[1] < distances[0] and counts == sorted(set(counts))
    assert model.tolerance == model.adjoint_tolerance == 1e-2
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("allowed", [0.1, 1e-3])
def test_the_chosen_tolerances_are_good_enough_and_no_tighter(given, allowed):
    task, model, batch = given
    chosen = gradients.loosest(task, model, batch, allowed)
    exact = exact_gradient(given)

    def error(*tolerances):
        found, _ = gradients.gradient(task, model, batch, *tolerances)
        return ((found.double() - exact).norm() / exact.norm()).item()

    pair = chosen.tolerance, chosen.adjoint_tolerance
    assert error(*pair) == pytest.approx(chosen.error, rel=1e-3) and chosen.error <= allowed
    ladder = gradients.LADDER
    rungs = sum(map(ladder.index, pair)) - 1
    looser = [(i, rungs - i) for i in range(len(ladder)) if 0 <= rungs - i < len(ladder)]
    assert all(error(ladder[i], ladder[j]) > allowed for i, j in looser)


def test_where_nothing_is_good_enough_it_is_the_tightest(given):
    found = gradients.loosest(*given, 1e-12)
    assert (found.tolerance, found.adjoint_tolerance) == (gradients.LADDER[-1],) * 2


def test_a_run_chooses_its_tolerances_every_epoch_and_resumes_with_them(tmp_path):
    task = swinging(replace(SWINGING, gradient_error=1e-2))
    whole, reports = tmp_path / "whole.ckpt", []
    training.run(task, whole, device="cpu", every=1, report=reports.append)
    assert {report.tolerance for report in reports} <= set(gradients.LADDER)
    assert {report.adjoint_tolerance for report in reports} <= set(gradients.LADDER)
    saved = checkpoint.read(whole)
    assert saved.tolerances == (reports[-1].tolerance, reports[-1].adjoint_tolerance)

    def stop(at):
        if at.step == 6:
            raise KeyboardInterrupt

    path = tmp_path / "part.ckpt"
    with pytest.raises(KeyboardInterrupt):
        training.run(task, path, device="cpu", every=1, report=stop)
    training.run(task, path, device="cpu", every=1)
    first, second = (checkpoint.read(file).model for file in (whole, path))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_tolerances_of_a_recipe():
    recipe = Recipe(epochs=2, tolerances=(1e-1, 1e-2))
    assert recipe.tolerances_of(1) == (1e-2, 1e-2)
    apart = recipe.solved(adjoint_tolerance=1e-4)
    assert [apart.tolerances_of(k) for k in (0, 1)] == [(1e-1, 1e-4), (1e-2, 1e-4)]
    assert apart.lasting(4).tolerances_of(3) == (1e-2, 1e-4)
    both = recipe.solved(tolerance=1e-3)
    assert both == replace(recipe, tolerances=(1e-3, 1e-3))
    assert recipe.solved() == recipe
    for wrong in ({"tolerance": 0.0}, {"adjoint_tolerance": 2.0}, {"checkpoints": -1}):
        with pytest.raises(BadInput, match="between 0 and 1|at least 1"):
            recipe.solved(**wrong)
    for asked in ({"tolerance": 1e-3}, {"gradient_error": 0.1}, {"checkpoints": 2}):
        with pytest.raises(BadInput, match="solves nothing adaptively"):
            Recipe(epochs=2).solved(**asked)
    with pytest.raises(BadInput, match="2 epochs has 3 adjoint_tolerances"):
        replace(recipe, adjoint_tolerances=(1e-2,) * 3)


def test_training_with_tolerances_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist_odenet, "task", lambda data: tiny())
    result = models.train(
        "mnist-odenet", folder=tmp_path, device="cpu", epochs=1, tolerance=1e-1,
        adjoint_tolerance=1e-2,
    )  # fmt: skip
    recipe = result.card["recipe"]
    assert (recipe["tolerances"], recipe["adjoint_tolerances"]) == ([1e-1], [1e-2])
    assert "--tolerance 0.1 --adjoint-tolerance 0.01" in result.card["command"]
    assert checkpoint.read(result.checkpoint).tolerances == (1e-1, 1e-2)


class Transient(nn.Module):
    """du/dt = −λ u, dv/dt = w tanh u for rows y of u and v, (n, 2): a transient that dies out and a
    slow state that it feeds. Backwards its errors grow by e^λ."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate))
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, t, y):
        return torch.stack([-self.rate * y[:, 0], self.weight * torch.tanh(y[:, 0])], dim=1)


def test_the_checkpointed_adjoint_holds_where_running_backwards_diverges():
    start = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0.0, 1.0])
    options = {"rtol": 1e-5, "atol": 1e-5, "method": "dopri5"}

    def gradient(solve, dtype=torch.float32):
        field = Transient(25.0).to(dtype)
        y = start.to(dtype).requires_grad_()
        loss = solve(field, y)[:, 1].square().sum()
        loss.backward()
        return torch.stack([field.rate.grad, field.weight.grad]).double()

    exact = gradient(
        lambda f, y: odeint(f, y, times.double(), rtol=1e-11, atol=1e-11)[-1], torch.float64
    )
    kept = gradient(lambda f, y: segmented(f, y, 0.0, 1.0, segments=4, **options))
    assert ((kept - exact).norm() / exact.norm()).item() < 1e-3
    try:
        backwards = gradient(lambda f, y: odeint_adjoint(f, y, times, **options)[-1])
    except AssertionError:  # torchdiffeq asserts that step size and state stay finite
        return
    assert ((backwards - exact).norm() / exact.norm()).item() > 0.1


def test_the_checkpointed_adjoint_keeps_few_states():
    model = training.initial(tiny(), 1)
    stored = []

    def kept(segments):
        stored.clear()
        y = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: stored.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            segmented(model.field, y, 0.0, 1.0, segments=segments, rtol=1e-4, atol=1e-4)
        return sum(stored)

    few, more = kept(2), kept(8)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: stored.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        stored.clear()
        y = torch.randn(2, 4, 6, 6).requires_grad_()
        odeint(model.field, y, torch.tensor([0.0, 1.0]), rtol=1e-4, atol=1e-4)
    assert few <= more < sum(stored) / 4


def test_a_checkpointed_run_learns_from_the_same_gradient(tmp_path):
    recipe = replace(RECIPE, tolerances=(1e-4, 1e-4))
    one, three = (tiny(recipe.solved(checkpoints=k)) for k in (1, 3))
    batch = one.batch(torch.arange(16), torch.Generator().manual_seed(0))
    model = training.initial(one, 0)
    whole, evaluations = gradients.gradient(checkpointed(one), model, batch, 1e-5, 1e-5)
    parts, _ = gradients.gradient(checkpointed(three), model, batch, 1e-5, 1e-5)
    # The field's ReLU has a slope that jumps, so that gradients of its solves converge slowly.
    assert ((parts - whole).norm() / whole.norm()).item() < 0.1
    assert evaluations > 0 and model.through is None
    reports = []
    training.run(three, tmp_path / "tiny.ckpt", device="cpu", report=reports.append)
    assert reports[-1].forward_evaluations > 0 and reports[-1].backward_evaluations > 0


def test_the_door_is_closed_after_an_error():
    model = training.initial(tiny(), 0)

    def broken(field, start, t0, t1):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"), standing_in(model, broken):
        model(torch.zeros(1, 1, 28, 28))
    assert model.through is None
