"""The latent ODE on spirals: its data, its recurrence, its training, its file."""

from __future__ import annotations

import latent_files
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odedeploy import models
from odedeploy.models import latent_ode, spirals, training
from odedeploy.models.latent_ode import LatentOde
from odedeploy.models.recurrence import Recurrence
from odedeploy.models.tasks import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 30), seed=st.integers(0, 99), backwards=st.booleans())
def test_the_recurrence_is_its_loop(n, seed, backwards):
    torch.manual_seed(seed)
    recurrence = Recurrence(3, 5, backwards=backwards)
    features = 3 * torch.randn(2, n, 3)
    mask = (torch.rand(2, n) < 0.7).float()
    h = torch.zeros(2, 5)
    for i in range(n)[::-1] if backwards else range(n):
        seen = recurrence.before(features[:, i])
        gate = torch.sigmoid(recurrence.gate(seen)) * mask[:, i, None]
        h = (1 - gate) * h + gate * recurrence.candidate(seen)
    torch.testing.assert_close(recurrence(features, mask), h, rtol=1e-4, atol=1e-5)


def test_spirals_run_both_ways_on_one_curve():
    true, noisy = spirals.draw(40, 5)
    radius = true.norm(dim=-1)
    assert (radius[::2].diff(dim=1) > 0).all() and (radius[1::2].diff(dim=1) < 0).all()
    x, y = true.unbind(-1)
    turning = x[:, :-1] * y[:, 1:] - y[:, :-1] * x[:, 1:]
    assert (turning[::2] > 0).all() and (turning[1::2] < 0).all()
    angle = radius / spirals.RADIUS
    on_curve = spirals.RADIUS * angle[..., None] * torch.stack([angle.cos(), angle.sin()], -1)
    torch.testing.assert_close(on_curve, true, rtol=1e-3, atol=1e-3)
    assert 0 < angle.min() and angle.max() < 6 * np.pi
    assert (noisy - true).std().item() == pytest.approx(spirals.NOISE, rel=0.05)


def test_parts_share_no_trajectory():
    seeds = (spirals.TRAINING, spirals.HELD_OUT, spirals.TEST, spirals.CALIBRATION)
    first = [spirals.draw(50, seed).true[:, 0] for seed in seeds]
    assert torch.cdist(torch.cat(first), torch.cat(first)).fill_diagonal_(1).min() > 0
    assert torch.equal(spirals.draw(50, 1).noisy, spirals.draw(50, 1).noisy)


def test_observations_are_points_of_their_trajectory_in_order():
    drawn = spirals.draw(8, 0)
    counts = torch.tensor([1, 2, 10, 30, 50, 99, 100, 7])
    values, times, mask = spirals.observe(drawn, counts, generator())
    assert torch.equal(mask.sum(1).long(), counts)
    for row, count in enumerate(counts.tolist()):
        seen = times[row, :count]
        assert (seen.diff() > 0).all() and not times[row, count:].any()
        points = (seen * spirals.POINTS).round().long()
        assert torch.equal(values[row, :count], drawn.noisy[row, points])
        assert not values[row, count:].any() and not mask[row, count:].any()


def test_a_solve_for_each_query_is_the_common_trajectory():
    torch.manual_seed(0)
    model = LatentOde(tolerance=1e-6)
    seen = spirals.observe(spirals.draw(4, 0), torch.tensor([5, 20, 60, 100]), generator())
    times = torch.linspace(0, 2, 9)
    with torch.no_grad():
        found = model(*seen, times.expand(4, -1))
        common = model.trajectories(model.recognition(*seen)[0], times)
    torch.testing.assert_close(found, common, rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=6), st.integers(0, 60))
def test_the_part_since_a_time_is_what_was_seen_from_it_on(counts, first):
    seen = spirals.observe(spirals.draw(len(counts), 0), torch.tensor(counts), generator())
    part = spirals.since(seen, spirals.TIMES[first])
    for row in range(len(counts)):
        kept = (seen.times[row] >= spirals.TIMES[first]) & (seen.mask[row] > 0)
        n = int(kept.sum())
        assert part.mask[row].sum() == n and not part.mask[row, n:].any()
        assert torch.equal(part.values[row, :n], seen.values[row, kept])
        torch.testing.assert_close(part.times[row, :n], seen.times[row, kept] - first / 100)
        assert not part.values[row, n:].any() and not part.times[row, n:].any()


def test_the_loss_bounds_the_evidence_of_the_whole_and_of_its_later_part():
    """Negative log-likelihoods of a known path, less nothing, when the posterior is the prior."""

    class Resting(LatentOde):
        def states(self, start, times, method):
            return start.new_zeros(len(start), len(times), start.shape[1])

    model = Resting()
    for layer in (model.recognition.posterior, model.decoder[-1]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    batch = latent_ode.learn(Resting, Recipe(epochs=1), 8).batch(torch.arange(8), generator())
    bound, metrics = latent_ode.loss(model, batch)
    squares, later = batch[4].square(), int(batch[6])
    expected = squares.sum(2).mean() + squares[:, later:].sum(2).mean()
    torch.testing.assert_close(bound, expected / (2 * 0.3**2))
    assert metrics["rmse"] == pytest.approx(squares.mean().sqrt().item())


def test_the_loss_asks_of_the_later_part_for_the_state_that_the_solve_reached():
    """The better the later part's posterior expects that state, the lower the loss."""
    batch = latent_ode.learn(LatentOde, Recipe(epochs=1), 8).batch(torch.arange(8), generator())

    def loss(shift: float) -> float:
        class Told(LatentOde):
            def states(self, start, times, method):
                return (start.new_full((len(start), len(times), 4), shift)).cumsum(1)

        model = Told()
        for part in (model.recognition.posterior, model.decoder[-1]):
            torch.nn.init.zeros_(part.weight)
            torch.nn.init.zeros_(part.bias)
        return latent_ode.loss(model, batch)[0].item()

    reached = int(batch[6]) + 1
    surprise = 0.5 * 4 * reached**2 / len(spirals.TIMES)
    assert loss(1.0) - loss(0.0) == pytest.approx(surprise, rel=1e-3)


def test_a_run_learns_and_ends_at_its_recipe(tmp_path):
    recipe = Recipe(epochs=2, batch=20, learning_rate=3e-2)
    task = latent_ode.learn(LatentOde, recipe, 20)
    reports = []
    trained = training.run(
        task, tmp_path / "whole.ckpt", device="cpu", every=20, report=reports.append
    )
    assert len(reports) == 2 and reports[1].loss < reports[0].loss
    assert set(reports[1].held_out) == {"rmse_30", "rmse_50", "rmse_100"}
    again = training.run(task, tmp_path / "whole.ckpt", device="cpu")
    for name, weight in trained.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)


def test_the_shipped_model_predicts_better_from_more_observations():
    model, _ = models.build("latent-ode-spirals")
    measured = latent_ode.measure(model, 200, seed=9)
    assert measured["rmse_100"] < measured["rmse_30"] < 0.394
    card = models.card("latent-ode-spirals")["test"]
    for name, value in measured.items():
        assert value == pytest.approx(card[name], rel=0.3)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A lively untrained model, its inputs, and its file by RK4."""
    torch.manual_seed(0)
    model = LatentOde().eval()
    with torch.no_grad():
        for parameter in (*model.field.parameters(), *model.recognition.parameters()):
            parameter.mul_(2)
    inputs = latent_ode.calibration(24)
    return model, inputs, latent_files.write(model, inputs, tmp_path_factory.mktemp("l"), 12)


def answers(model, inputs):
    with torch.no_grad():
        return model(*(torch.from_numpy(array) for array in inputs.values())).numpy()


def some(inputs, rows=5, **others):
    return {name: array[:rows] for name, array in inputs.items()} | others


def test_the_file_names_its_axes(file):
    shapes = {spec.name: spec.shape for spec in file[2].inputs}
    assert shapes == {
        "values": ("batch", "observations", 2),
        "times": ("batch", "observations"),
        "mask": ("batch", "observations"),
        "query": ("batch", "queries"),
    }


@pytest.mark.parametrize("count", [1, 2, 30, 99, 100, 137])
def test_the_file_takes_any_number_of_observations(file, count):
    model, inputs, session = file
    drawn = torch.Generator().manual_seed(count)
    times = torch.rand(3, count, generator=drawn).sort(1).values.numpy()
    values = torch.randn(3, count, 2, generator=drawn).numpy()
    given = {"values": values, "times": times, "mask": np.ones_like(times),
             "query": inputs["query"][:3]}  # fmt: skip
    found = session.run(given)["output"]
    np.testing.assert_allclose(found, answers(model, given), atol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 25, 200])
def test_the_file_takes_any_number_of_queries(file, count):
    model, inputs, session = file
    query = np.tile(np.linspace(0, 2, count, dtype=np.float32), (5, 1))
    given = some(inputs, query=query)
    found = session.run(given)["output"]
    assert found.shape == (5, count, 2)
    np.testing.assert_allclose(found, answers(model, given), atol=1e-3)
    alone = session.run(some(inputs, query=query[:, -1:]))["output"]
    np.testing.assert_allclose(found[:, -1:], alone, atol=1e-5)


def test_padding_says_nothing(file):
    _, inputs, session = file
    row = int(np.argmin(inputs["mask"].sum(1)))
    count = int(inputs["mask"][row].sum())
    whole = {name: array[row : row + 1] for name, array in inputs.items()}
    cut = whole | {name: whole[name][:, :count] for name in ("values", "times", "mask")}
    noisy = whole | {"values": whole["values"] + 7 * (1 - whole["mask"])[..., None]}
    expected = session.run(cut)["output"]
    for padded in (whole, noisy):
        np.testing.assert_allclose(session.run(padded)["output"], expected, atol=1e-5)


def test_times_are_read_at_run_time(file):
    model, inputs, session = file
    given = some(inputs)
    later = given | {"times": 0.5 * given["times"]}
    found = session.run(later)["output"]
    assert np.abs(found - session.run(given)["output"]).max() > 0.02
    np.testing.assert_allclose(found, answers(model, later), atol=1e-3)
