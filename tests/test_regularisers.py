"""Regularisers: what they measure, what they do to a run, and what a recipe keeps of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_training import EVERY, RECIPE, ending, tiny
from torch import Generator, nn

from odedeploy import models
from odedeploy.errors import BadInput, UnknownName
from odedeploy.models import checkpoint, mnist_odenet, publishing, training
from odedeploy.models.mnist_layers import VectorField
from odedeploy.models.mnist_odenet import OdeNet
from odedeploy.models.regularisers import (
    REGULARISERS,
    RegularisedSolve,
    follow,
    jacobian,
    kinetic,
    local_error,
    parse,
    regularised,
)
from odedeploy.models.solves import standing_in

PENALTIES = [name for name, entry in REGULARISERS.items() if entry.penalty]
ALL = parse(["kinetic=0.1", "jacobian=0.1", "local-error=1", "end-time=0.2"])


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


class Linear(nn.Module):
    """dy/dt = A y + c for rows y (n, 3), A and c learnt."""

    def __init__(self, matrix: torch.Tensor, constant: float = 0.0) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)
        self.constant = nn.Parameter(torch.tensor(constant, dtype=matrix.dtype))
        self.times: list[float] = []

    def forward(self, t, y):
        self.times.append(float(t))
        return y @ self.matrix.T + self.constant


@pytest.fixture
def rotating():
    matrix = torch.tensor([[0, -2, 0.3], [2, 0, 0.1], [0, 0.5, -1]], dtype=torch.float64)
    start = torch.randn(5, 3, generator=seeded(), dtype=torch.float64).requires_grad_()
    return Linear(matrix), start


def test_the_solve_has_the_orders_of_its_pair(rotating):
    field, start = rotating
    exact = start @ torch.linalg.matrix_exp(field.matrix).T
    paths = [follow(field, start, 0.0, 1.0, steps) for steps in (8, 16, 32)]
    ends = [(path.states[-1] - exact).norm().item() for path in paths]
    errors = [path.errors[0].norm().item() for path in paths]
    for values, order in ((ends, 3), (errors, 3)):  # a local error of order two is O(h³)
        for coarse, fine in zip(values, values[1:], strict=False):
            assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def test_a_solve_takes_three_evaluations_a_step_and_one_more(rotating):
    field, start = rotating
    path = follow(field, start, 0.5, 1.5, 4)
    assert len(field.times) == 13 and min(field.times) == 0.5 and max(field.times) == 1.5
    assert len(path.states) == len(path.slopes) == len(path.errors) + 1 == 5
    for k, (state, slope) in enumerate(zip(path.states, path.slopes, strict=True)):
        torch.testing.assert_close(slope, field(0.5 + k / 4, state))


def test_penalties_of_a_field_that_is_known(rotating):
    field, start = rotating
    path = follow(field, start, 0.0, 2.0)
    draws = [jacobian(path, seeded(seed)).item() for seed in range(400)]
    expected = 2.0 * field.matrix.square().sum().item() / 3
    assert sum(draws) / len(draws) == pytest.approx(expected, rel=0.05)
    constant = Linear(torch.zeros(3, 3, dtype=torch.float64), 3.0)
    path = follow(constant, start, 0.0, 2.0)
    assert kinetic(path, seeded()).item() == pytest.approx(9.0 * 2.0)
    assert local_error(path, seeded()).item() < 1e-12


@pytest.mark.parametrize("name", PENALTIES)
def test_descending_a_penalty_lowers_it(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        field = VectorField(4)
    start = torch.randn(4, 4, 6, 6, generator=seeded()).requires_grad_()
    penalty = REGULARISERS[name].penalty
    assert penalty is not None
    optimizer = torch.optim.Adam(field.parameters(), lr=2e-2)
    values = []
    for _ in range(12):
        value = penalty(follow(field, start, 0.0, 1.0), seeded())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert all(map(math.isfinite, values)) and 0 < values[-1] < 0.8 * values[0]


def test_a_random_end_stays_within_its_width(rotating):
    field, start = rotating
    ends = []
    for seed in range(50):
        field.times.clear()
        RegularisedSolve((("end-time", 0.25),), seeded(seed))(field, start, 1.0, 3.0)
        ends.append(max(field.times))
    assert 2.5 <= min(ends) < 2.7 and 3.3 < max(ends) <= 3.5


def test_the_loss_gains_each_penalty_by_its_weight():
    task = tiny(RECIPE.regularised(ALL))
    plain, model = tiny(), training.initial(task, 0)
    rows = torch.arange(16)
    batch = regularised(task).batch(rows, seeded())
    assert all(map(torch.equal, batch, plain.batch(rows, seeded())))
    value, metrics = regularised(task).loss(model, batch)
    again, _ = regularised(task).loss(model, batch)
    assert torch.equal(value, again)
    penalties = {name: metrics.pop(name) for name in PENALTIES}
    assert list(metrics) == ["accuracy"] and min(penalties.values()) > 0
    only_end = replace(task, recipe=RECIPE.regularised(ALL[-1:]))
    unweighted, _ = regularised(only_end).loss(model, batch)
    expected = unweighted.item() + sum(dict(ALL)[name] * p for name, p in penalties.items())
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert model.through is None


def test_a_regularised_run_resumes_to_the_same_bits(tmp_path):
    task = tiny(RECIPE.regularised(ALL))
    whole, reports = tmp_path / "whole.ckpt", []
    training.run(task, whole, device="cpu", every=EVERY, report=reports.append)
    assert all(report.metrics.keys() == {"accuracy", *PENALTIES} for report in reports)
    assert all(report.tolerance is None for report in reports)

    def interrupt():
        raise KeyboardInterrupt

    path = tmp_path / "tiny.ckpt"
    with pytest.raises(KeyboardInterrupt):
        training.run(ending(task, 7, interrupt), path, device="cpu", every=EVERY)
    model = training.run(task, path, device="cpu", every=EVERY)
    first, second = (checkpoint.read(file).model for file in (whole, path))
    assert all(torch.equal(first[key], second[key]) for key in first)
    before = model.evaluations
    with torch.no_grad():
        model(torch.rand(1, 1, 28, 28))
    assert model.evaluations - before != 13  # evaluated, it solves by itself
    with pytest.raises(BadInput, match="its regularisers is"):
        training.run(tiny(RECIPE.regularised(ALL[:1])), path, device="cpu")


def test_a_checkpoint_from_before_regularisers_is_resumed(tmp_path):
    path = tmp_path / "tiny.ckpt"
    training.run(tiny(), path, device="cpu")
    saved = checkpoint.read(path)
    old = {k: v for k, v in saved.recipe.items() if k not in ("regularisers", "start")}
    checkpoint.save(path, replace(saved, recipe=old))
    training.run(tiny(), path, device="cpu")
    card = publishing.publish(tiny(), path, tmp_path, device="cpu").card
    assert card["recipe"]["regularisers"] == {}


def test_the_card_tells_the_regularisers(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist_odenet, "task", lambda data: tiny())
    result = models.train(
        "mnist-odenet", folder=tmp_path, epochs=1, device="cpu",
        regularise=["kinetic=0.01", "end-time=0.5"],
    )  # fmt: skip
    assert result.card["recipe"]["regularisers"] == {"kinetic": 0.01, "end-time": 0.5}
    assert result.card["recipe"]["tolerances"] == []
    command = "odedeploy train mnist-odenet --seed 0 --epochs 1 "
    command += "--regularise kinetic=0.01 --regularise end-time=0.5"
    assert result.card["command"] == command


@pytest.mark.parametrize("text", ["kinetic", "kinetic=", "kinetic=-1", "jacobian=nan", "kinetic=0",
                                  "end-time=1", "local-error=inf"])  # fmt: skip
def test_a_weight_that_is_none_is_refused(text):
    with pytest.raises(BadInput, match=f"--regularise {text.partition('=')[0]} needs a positive"):
        parse([text])


def test_a_regulariser_that_does_not_exist_or_twice_is_refused():
    with pytest.raises(UnknownName, match="did you mean 'kinetic'"):
        parse(["kinetc=1"])
    with pytest.raises(BadInput, match="twice"):
        parse(["kinetic=1", "kinetic=2"])


def test_a_model_that_solves_nothing_cannot_be_regularised(tmp_path):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(784, 10)

        def forward(self, image):
            return self.layer(image.flatten(1))

    task = replace(tiny(RECIPE.regularised(ALL)), model=Plain)
    with pytest.raises(BadInput, match="Plain has no adaptive solve"):
        training.run(task, tmp_path / "tiny.ckpt", device="cpu")


def test_a_recipe_has_tolerances_or_regularisers():
    with pytest.raises(BadInput, match="give it no tolerances"):
        replace(RECIPE, regularisers=ALL)


def test_the_solve_of_the_model_is_untouched_by_the_door():
    model = OdeNet(4, tolerance=1e-2)
    image = torch.rand(2, 1, 28, 28, generator=seeded())
    before = model(image)
    with standing_in(model, RegularisedSolve(ALL, seeded())):
        assert model(image).shape == before.shape and not torch.equal(model(image), before)
    assert torch.equal(model(image), before)
