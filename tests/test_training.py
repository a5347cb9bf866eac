"""Training: the loop, its checkpoints, resumption, and what is published at the end."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_training
import torch
from safetensors.torch import load_file
from tiny_training import EVERY, RECIPE, ending, tiny
from torch import nn
from torchdiffeq import odeint_adjoint

from odedeploy import models
from odedeploy.errors import BadInput, Diverged, UnknownName, Unusable
from odedeploy.models import checkpoint, mnist_odenet, publishing, training
from odedeploy.models.tasks import Recipe, Task

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run: its checkpoint file and reports."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("finished") / "tiny.ckpt"
    reports = []
    training.run(tiny(), path, device="cpu", every=EVERY, report=reports.append)
    torch.set_num_threads(threads)
    return path, reports


def same(a, b) -> bool:
    """Equal to the last bit, through dictionaries, lists and tuples."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def same_run(a: Path, b: Path) -> bool:
    """Whether two checkpoints are equal in everything but the time they took."""
    first, second = (replace(checkpoint.read(path), seconds=0.0) for path in (a, b))
    return same(vars(first), vars(second))


def test_a_killed_run_resumes_to_the_same_bits(tmp_path, finished):
    path = tmp_path / "tiny.ckpt"
    script = [sys.executable, tiny_training.__file__, str(path), "11"]
    killed = subprocess.run(script, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert checkpoint.read(path).step == 8
    assert not same_run(path, finished[0])
    (tmp_path / ".tiny.ckpt.0badcafe.tmp").write_bytes(b"torn")
    training.run(tiny(), path, device="cpu", every=EVERY)
    assert same_run(path, finished[0])
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.ckpt"]


# Before the first regular checkpoint, right after one, right after an epoch, in the last step.
@pytest.mark.parametrize(("step", "kept"), [(2, 0), (5, 4), (7, 6), (12, 8)])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, finished, step, kept):
    def interrupt():
        raise KeyboardInterrupt

    path = tmp_path / "tiny.ckpt"
    with pytest.raises(KeyboardInterrupt):
        training.run(ending(tiny(), step, interrupt), path, device="cpu", every=EVERY)
    assert checkpoint.read(path).step == kept
    training.run(tiny(), path, device="cpu", every=EVERY)
    assert same_run(path, finished[0])


def test_reports_tell_where_the_run_is(finished):
    reports = finished[1]
    assert [r.step for r in reports] == [4, 6, 8, 12]
    assert [r.epoch for r in reports] == [1, 1, 2, 2]
    assert [r.tolerance for r in reports] == [1e-1, 1e-1, 1e-2, 1e-2]
    assert [r.held_out is not None for r in reports] == [False, True, False, True]
    assert all(r.steps == 12 and r.epochs == 2 for r in reports)
    assert all(r.loss > 0 and 0 <= r.metrics["accuracy"] <= 1 for r in reports)
    assert all(r.forward_evaluations >= 8 and r.backward_evaluations >= 8 for r in reports)
    seconds = [r.seconds for r in reports]
    assert 0 < seconds[0] and seconds == sorted(seconds)


def test_the_run_depends_on_the_seed_and_on_nothing_else():
    task = tiny()
    state = torch.get_rng_state()
    first = training.initial(task, 0).state_dict()
    assert same(torch.get_rng_state(), state)
    torch.rand(3)
    assert same(training.initial(task, 0).state_dict(), first)
    torch.manual_seed(0)
    assert same(task.model().state_dict(), first)
    other = training.initial(task, 1).state_dict()
    assert not torch.equal(other["head.4.weight"], first["head.4.weight"])
    for seed in (-1, 2**32):
        with pytest.raises(BadInput, match="seed"):
            training.initial(task, seed)


def test_a_finished_run_takes_no_more_steps(tmp_path, finished):
    path = tmp_path / "tiny.ckpt"
    path.write_bytes(finished[0].read_bytes())
    reports = []
    model = training.run(tiny(), path, device="cpu", report=reports.append)
    assert not reports and not model.training
    assert same(dict(model.state_dict()), dict(checkpoint.read(finished[0]).model))


@pytest.mark.parametrize(
    ("task", "seed", "why"),
    [
        (tiny(), 1, "its seed is 0, not 1"),
        (tiny(replace(RECIPE, clip=2.0)), 0, "its clip is 1.0, not 2.0"),
        (tiny(RECIPE.lasting(3)), 0, "its epochs is 2, not 3"),
        (tiny(size=80), 0, "its steps is 12, not 10"),
        (tiny(channels=8), 0, "another model"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path, finished, task, seed, why):
    path = tmp_path / "tiny.ckpt"
    path.write_bytes(finished[0].read_bytes())
    with pytest.raises(BadInput, match=why) as refusal:
        training.run(task, path, seed=seed, device="cpu")
    assert "--fresh" in str(refusal.value)
    assert path.read_bytes() == finished[0].read_bytes()


@pytest.mark.parametrize("size", [0, 100, -100])
def test_a_damaged_checkpoint_is_refused(tmp_path, finished, size):
    path = tmp_path / "tiny.ckpt"
    path.write_bytes(finished[0].read_bytes()[:size])
    with pytest.raises(BadInput, match="not a checkpoint"):
        training.run(tiny(), path, device="cpu")


def test_a_checkpoint_runs_no_code(tmp_path):
    path = tmp_path / "tiny.ckpt"
    torch.save({"model": Path("pickled")}, path)
    with pytest.raises(BadInput, match="not a checkpoint"):
        training.run(tiny(), path, device="cpu")


def test_fresh_starts_over(tmp_path, finished):
    path = tmp_path / "tiny.ckpt"
    path.write_bytes(finished[0].read_bytes())
    steps = []
    training.run(
        tiny(), path, seed=1, fresh=True, device="cpu", report=lambda p: steps.append(p.step)
    )
    assert steps == [6, 12]
    assert checkpoint.read(path).seed == 1


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    task = tiny()
    broken = replace(task, loss=lambda model, batch: (model(batch[0]).sum() * torch.nan, {}))
    with pytest.raises(Diverged, match="nan"):
        training.run(broken, tmp_path / "tiny.ckpt", device="cpu")
    assert checkpoint.read(tmp_path / "tiny.ckpt").step == 0


def test_a_solve_that_diverges_stops_the_run(tmp_path):
    def explode(rows, generator):
        images, labels = task.batch(rows, generator)
        return images * torch.inf, labels

    task = tiny()
    with pytest.raises(Diverged, match="diverged"):
        training.run(replace(task, batch=explode), tmp_path / "tiny.ckpt", device="cpu")


def test_unusable_requests_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "tiny.ckpt"
    with pytest.raises(BadInput, match="fewer than a batch"):
        training.run(tiny(size=8), path, device="cpu")
    with pytest.raises(UnknownName, match="'cuda'"):
        training.run(tiny(), path, device="cude")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unusable, match="CUDA"):
        training.run(tiny(), path, device="cuda")
    assert training.place("auto") == training.place("cpu") == torch.device("cpu")
    assert not path.exists()
    with pytest.raises(BadInput, match="no folder"):
        training.run(tiny(), tmp_path / "nowhere" / "tiny.ckpt", device="cpu")


@pytest.mark.parametrize(
    ("epochs", "tolerances"),
    [(1, "5"), (2, "25"), (3, "225"), (4, "2225"), (8, "22222255"), (12, "2" * 9 + "555")],
)
def test_a_recipe_keeps_its_course_over_other_epochs(epochs, tolerances):
    recipe = Recipe(epochs=8, tolerances=(1e-2,) * 6 + (1e-5,) * 2)
    assert recipe.lasting(epochs).tolerances == tuple(float(f"1e-{d}") for d in tolerances)
    again = replace(recipe.lasting(epochs), epochs=8, tolerances=recipe.tolerances)
    assert again == recipe


def test_a_recipe_needs_an_epoch():
    with pytest.raises(BadInput, match="--epochs"):
        RECIPE.lasting(0)


@pytest.mark.parametrize("steps", range(1, 7))
def test_the_shortest_runs_end(tmp_path, steps):
    short = tiny(RECIPE.lasting(1), size=steps * RECIPE.batch)
    assert short.steps == steps
    training.run(short, tmp_path / "short.ckpt", device="cpu")


class Rotation(nn.Module):
    """y(1) of dy/dt = A y for rows y0 (n, 2); A is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(2, 2))
        self.tolerance = self.adjoint_tolerance = 1e-3
        self.evaluations = 0

    def field(self, t, y):
        self.evaluations += 1
        return y @ self.matrix.T

    def forward(self, y0):
        options = {"rtol": self.tolerance, "atol": self.tolerance}
        parameters = (self.matrix,)
        times = torch.tensor([0.0, 1.0])
        return odeint_adjoint(self.field, y0, times, adjoint_params=parameters, **options)[-1]


def test_the_loop_trains_what_is_no_classifier(tmp_path):
    points = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    turned = points @ torch.linalg.matrix_exp(torch.tensor([[0.0, -1.0], [1.0, 0.0]])).T

    def loss(model, batch):
        error = (model(batch[0]) - batch[1]).square().mean()
        return error, {"rmse": error.item() ** 0.5}

    task = Task(
        name="rotation",
        model=Rotation,
        size=64,
        batch=lambda rows, generator: (points[rows], turned[rows]),
        loss=loss,
        held_out=lambda model: {},
        test=lambda model: {},
        recipe=Recipe(20, (1e-3,) * 20, batch=16, learning_rate=5e-2, weight_decay=0.0),
        data={"name": "points"},
    )
    reports = []
    model = training.run(task, tmp_path / "rotation.ckpt", device="cpu", report=reports.append)
    assert reports[-1].metrics["rmse"] < 0.05 < reports[0].metrics["rmse"]
    torch.testing.assert_close(
        model.matrix.detach(), torch.tensor([[0.0, -1.0], [1.0, 0.0]]), rtol=0, atol=0.1
    )


def test_train_writes_checkpoint_weights_and_card(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(mnist_odenet, "task", lambda data: asked.append(data) or tiny())
    folder = tmp_path / "new" / "run"
    result = models.train(
        "mnist-odenet", data=tmp_path, folder=folder, seed=3, epochs=1, device="cpu"
    )
    names = {"mnist-odenet.ckpt", "mnist-odenet.safetensors", "mnist-odenet.json"}
    assert {file.name for file in folder.iterdir()} == names
    assert asked == [tmp_path]
    assert result.card == json.loads(result.card_file.read_text())
    assert result.card["command"] == "odedeploy train mnist-odenet --seed 3 --epochs 1"
    assert result.card["recipe"]["tolerances"] == [1e-2]
    assert result.card["steps"] == {"done": 6, "planned": 6}
    assert result.card["test"] == {}
    assert 0 <= result.card["held_out"]["error"] <= 1
    assert result.card["sha256"] == hashlib.sha256(result.weights.read_bytes()).hexdigest()
    assert same(load_file(result.weights), dict(checkpoint.read(result.checkpoint).model))
    before = result.weights.read_bytes()
    again = models.train(
        "mnist-odenet", data=tmp_path, folder=folder, seed=3, epochs=1, device="cpu"
    )
    assert again.card == result.card and again.weights.read_bytes() == before


def test_the_card_reports_the_test_error_where_there_is_test_data(tmp_path, finished):
    test = tiny_training.digits(128, 192)
    task = replace(tiny(), test=lambda model: {"digits": len(test), "training": model.training})
    card = publishing.publish(task, finished[0], tmp_path, device="cpu").card
    assert card["test"] == {"digits": 64, "training": False}
    assert card["command"] == "odedeploy train mnist-odenet --seed 0"


def test_publishing_refuses_what_is_not_this_models_checkpoint(tmp_path, finished):
    with pytest.raises(BadInput, match="another model"):
        publishing.publish(tiny(channels=8), finished[0], tmp_path)
    with pytest.raises(BadInput, match="does not exist"):
        publishing.publish(tiny(), tmp_path / "none.ckpt", tmp_path)
    assert not list(tmp_path.iterdir())


def test_train_refuses_before_it_reads_data(tmp_path):
    with pytest.raises(UnknownName, match="mnist-odenet"):
        models.train("mnist-odenett", folder=tmp_path)
    with pytest.raises(UnknownName, match="device"):
        models.train("mnist-odenet", folder=tmp_path, data=tmp_path, device="tpu")
    with pytest.raises(BadInput, match="holds no train-images"):
        models.train("mnist-odenet", folder=tmp_path, data=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be made"):
        models.train("mnist-odenet", folder=tmp_path / "file" / "run", data=tmp_path)
