"""``flow-digits``: coupling, loss, field, samples in onnxruntime, and their judge."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from itertools import permutations

import numpy as np
import pytest
import tiny_training
import torch

import odedeploy
from odedeploy import api, models
from odedeploy.formats import find
from odedeploy.frontends import live
from odedeploy.grid import Grid
from odedeploy.models import checkpoint, classification, digit_classifier, flow_digits, training
from odedeploy.models.flow_digits import FlowDigits, VectorField
from odedeploy.models.tasks import Recipe
from odedeploy.program import Plan, solve_plan
from odedeploy.solvers import find as find_solver

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = Recipe(epochs=2, batch=16, averaging=0.9)


class Small(FlowDigits):
    def __init__(self) -> None:
        super().__init__(fine=8, coarse=8, depth=1)


def small(recipe=RECIPE):
    """Six steps an epoch."""
    digits, held_out = tiny_training.digits(0, 96), tiny_training.digits(96, 128)
    return flow_digits.match(Small, recipe, digits, held_out)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_noise_and_digits_are_paired_optimally_within_each_label():
    digits, labels = flow_digits.states(tiny_training.digits(0, 40))
    noise, ends, _, kept = flow_digits.couple(digits, labels, generator())
    assert torch.equal(ends, digits) and torch.equal(kept, labels)
    drawn = torch.randn(digits.shape, generator=generator())
    for label in labels.unique():
        rows = torch.nonzero(labels == label).flatten()[:6]
        own = noise[rows].flatten(1)
        cost = torch.cdist(digits[rows].flatten(1), own).square()
        best = min(sum(cost[i, j] for i, j in enumerate(p)) for p in permutations(range(len(rows))))
        torch.testing.assert_close(cost.trace(), best)
        # A pairing permutes the draws of its label; it makes no noise of its own.
        pool = {row.numpy().tobytes() for row in drawn[labels == label]}
        assert {row.numpy().tobytes() for row in noise[labels == label]} == pool


def test_times_are_stratified():
    digits, labels = flow_digits.states(tiny_training.digits(0, 64))
    times = flow_digits.couple(digits, labels, generator())[2]
    assert torch.equal((times * 64).floor().sort().values, torch.arange(64.0))
    again = flow_digits.couple(digits, labels, generator(1))[2]
    assert not torch.equal(times, again)


def test_the_loss_of_a_field_is_its_distance_from_the_velocity():
    class Resting(torch.nn.Module):
        def field(self, t, x, label):
            return torch.zeros_like(x)

    digits, labels = flow_digits.states(tiny_training.digits(0, 16))
    batch = flow_digits.couple(digits, labels, generator())
    measured, _ = flow_digits.loss(Resting(), batch)
    torch.testing.assert_close(measured, (batch[1] - batch[0]).square().mean())


def test_one_time_and_one_time_a_sample_agree_and_the_label_matters():
    field = VectorField(fine=8, coarse=16, depth=1)
    torch.nn.init.normal_(field.after.conv2.weight, std=0.1, generator=generator())
    state = torch.randn(3, 1, 28, 28, generator=generator())
    label = torch.tensor([0, 5, 9])
    once = field(torch.tensor(0.3), state, label)
    torch.testing.assert_close(field(torch.full((3,), 0.3), state, label), once)
    assert once.shape == state.shape
    assert not torch.allclose(field(torch.tensor(0.6), state, label), once)
    assert not torch.allclose(field(torch.tensor(0.3), state, label.flip(0))[0], once[0])


def test_the_average_follows_the_weights(tmp_path):
    path, seen = tmp_path / "flow.ckpt", []
    training.run(
        small(), path, device="cpu", every=1,
        report=lambda _: seen.append(checkpoint.read(path)),
    )  # fmt: skip
    assert len(seen) == 12
    for before, after in zip(seen, seen[1:], strict=False):
        for name, weight in after.model.items():
            expected = 0.9 * before.average[name] + 0.1 * weight
            torch.testing.assert_close(after.average[name], expected)
    last = seen[-1]
    assert last.published is last.average and replace(last, average={}).published is last.model


def test_a_run_that_solves_nothing_resumes_to_the_same_bits_with_its_average(tmp_path):
    whole, broken, reports = tmp_path / "whole.ckpt", tmp_path / "broken.ckpt", []
    trained = training.run(small(), whole, device="cpu", every=4, report=reports.append)

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        task = tiny_training.ending(small(), 7, interrupt)
        training.run(task, broken, device="cpu", every=4)
    assert checkpoint.read(broken).step == 6
    resumed = training.run(small(), broken, device="cpu", every=4)
    found, expected = resumed.state_dict(), trained.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert {r.tolerance for r in reports} == {r.forward_evaluations for r in reports} == {None}
    assert reports[-1].held_out["loss"] < reports[1].held_out["loss"]


def test_what_is_published_is_the_average(tmp_path, monkeypatch):
    asked = lambda data: replace(small(), test=lambda model: {"class_accuracy": 0.0})  # noqa: E731
    monkeypatch.setattr(flow_digits, "task", asked)
    result = models.train("flow-digits", folder=tmp_path, device="cpu")
    saved = checkpoint.read(result.checkpoint)
    loaded = Small()
    loaded.load_state_dict(saved.average)
    measured = flow_digits.held_out_loss(
        loaded.eval(), *flow_digits.states(tiny_training.digits(96, 128))
    )
    assert result.card["held_out"] == pytest.approx(measured, rel=1e-5)
    empty = {"tolerances": [], "adjoint_tolerances": [], "regularisers": {}}
    assert result.card["recipe"] == asdict(RECIPE) | empty
    assert result.card["data"] == flow_digits.FACTS


def test_a_recipe_has_a_tolerance_for_each_epoch_or_none():
    with pytest.raises(odedeploy.errors.BadInput, match="2 epochs has 3 tolerances"):
        Recipe(epochs=2, tolerances=(1e-2,) * 3)
    assert RECIPE.lasting(5) == replace(RECIPE, epochs=5)


def test_draws_follow_their_seed():
    first, again, other = (flow_digits.draws(50, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["noise"], other["noise"])
    assert set(flow_digits.draws(500)["label"]) == set(range(10))


def test_the_judge_reads_digits_that_it_was_not_trained_on():
    images, labels = classification.tensors(tiny_training.digits(0, 512))
    measured = classification.measure(digit_classifier.build(), images, labels)
    assert measured["accuracy"] >= 0.985


@pytest.mark.parametrize("name", models.JUDGES)
def test_the_card_of_a_judge_describes_its_weights(name):
    content = json.loads((models.WEIGHTS / f"{name}.json").read_text())
    weights = (models.WEIGHTS / f"{name}.safetensors").read_bytes()
    assert content["sha256"] == hashlib.sha256(weights).hexdigest()
    assert content["test"]["accuracy"] >= 0.985
    assert content["command"] == f"odedeploy train {name} --seed {content['seed']}"


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    """The shipped sampler with eight evaluations: in onnxruntime, and its outputs in PyTorch."""
    model, inputs = models.build("flow-digits")
    graph = api.capture(model, {name: array[:4] for name, array in inputs.items()})
    (site,) = graph.sites
    plan = Plan((solve_plan(site.name, find_solver("ab2_euler"), Grid.through(site.times, 8)),))
    path = tmp_path_factory.mktemp("flow") / "flow.onnx"
    find("onnx").build(graph, plan, "unrolled").write(path, {})
    given = flow_digits.draws(120, seed=7)
    outputs = live(graph).run(plan, given, "float32").outputs
    return odedeploy.load(path, threads=1), given, outputs


def test_the_artefact_draws_the_digits_that_it_is_asked_for(artefact):
    session, given, outputs = artefact
    images = session.run(given, check=False)
    (name,) = outputs
    np.testing.assert_allclose(images[name], outputs[name], atol=2e-4)
    read = classification.predict(digit_classifier.build(), torch.from_numpy(images[name]))
    assert np.mean(read.numpy() == given["label"]) >= 0.8


def test_the_artefact_does_not_mind_batch_mates(artefact):
    session, given, _ = artefact
    whole = session.run(given, check=False)
    alone = session.run({name: array[5:6] for name, array in given.items()}, check=False)
    for name in whole:
        np.testing.assert_allclose(alone[name], whole[name][5:6], atol=1e-4)
