"""Data-parallel training, and the guard against solver lock."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import parallel_training
import pytest
import torch
from tiny_training import RECIPE, tiny
from torch import nn

from odedeploy.errors import BadInput
from odedeploy.models import checkpoint, lock, parallel, training
from odedeploy.models.regularisers import regularised


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    alone, together = tmp_path / "alone.ckpt", tmp_path / "together.ckpt"
    training.run(parallel_training.fixed(), alone, device="cpu")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         parallel_training.__file__, together],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", "[2, 3, 4, 6]", "[]"]
    first, second = checkpoint.read(alone), checkpoint.read(together)
    assert first.step == second.step == 6
    image = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    logits = []
    for saved in (first, second):  # a bias that a norm cancels follows round-off: not the weights
        model = parallel_training.fixed().model()
        model.load_state_dict(saved.model)
        logits.append(model(image))
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=5e-3)


def test_shares_make_up_the_batch():
    images, labels, seed = torch.randn(6, 1, 2, 2), torch.arange(6), torch.tensor([7])
    shares = [parallel.Group(rank, 3).share((images, labels, seed), 6) for rank in range(3)]
    assert sorted(torch.cat([share[1] for share in shares]).tolist()) == list(range(6))
    for rank, share in enumerate(shares):
        assert torch.equal(share[0], images[rank::3]) and torch.equal(share[2], seed)
    assert all(map(torch.equal, parallel.Group().share((images, seed), 6), (images, seed)))


def test_a_batch_that_does_not_split_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(BadInput, match="16 does not split over 3"):
        training.run(tiny(), tmp_path / "tiny.ckpt", device="cpu")


class Decay(nn.Module):
    """y(1) of dy/dt = −3 y by equal steps of Euler's method."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 1

    def forward(self, y):
        return y * (1 - 3 / self.steps) ** self.steps


def test_the_guard_sees_coarse_steps():
    task = replace(tiny(), loss=lambda model, batch: (model(batch[0]).sum(), {}))
    model, batch = Decay(), (torch.ones(4, 2),)
    found = []
    for model.steps in (1, 8, 64):
        found.append(lock.moved(task, model, batch))
    assert model.steps == 64
    assert found[0] == pytest.approx((0.25 + 2) / 0.25)
    assert found[0] > found[1] > lock.LOCKED > found[2] > 0


def test_the_guard_compares_a_regularised_solve_with_the_models_own():
    plain = tiny(RECIPE.regularised((("kinetic", 0.1), ("end-time", 0.5))))
    model = training.initial(plain, 0)
    batch = regularised(plain).batch(torch.arange(16), torch.Generator().manual_seed(0))
    model.tolerance = 1e-6
    found = lock.moved(plain, model, batch)
    assert found is not None and 0 < found < 1e-2
    assert lock.moved(tiny(), model, batch[:2]) is None


def test_a_run_by_fixed_steps_reports_the_guard_every_epoch(tmp_path):
    reports = []
    training.run(
        parallel_training.fixed(), tmp_path / "fixed.ckpt", device="cpu", every=2,
        report=reports.append,
    )  # fmt: skip
    assert [report.moved is not None for report in reports] == [False, True, False, True]
