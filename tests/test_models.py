"""The reference models: the table, what is shipped, the architecture, the data."""

from __future__ import annotations

import gzip
import hashlib
import inspect
import json
import struct
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import tiny_training
import torch
from safetensors.numpy import load_file

from odedeploy import models
from odedeploy.errors import BadInput, UnknownName, Unusable
from odedeploy.models import classification, mnist
from odedeploy.models.mnist_layers import VectorField
from odedeploy.models.mnist_mlp import Mlp
from odedeploy.models.mnist_odenet import OdeNet
from odedeploy.models.mnist_resnet import ResNet
from odedeploy.models.mnist_rknet import RkNet

# sha256 of the images and labels of MNIST's last 2,048 training digits.
HELD_OUT = "b478b307a7eb0d0b0ae7927b0204b578c100477a31ec43e8f8555f3cfb8e73b2"


@pytest.fixture(scope="module", params=sorted(models.MODELS))
def shipped(request):
    """Name, module and calibration inputs of each reference model."""
    return request.param, *models.build(request.param)


def test_a_model_is_built_ready_to_run(shipped):
    name, model, inputs = shipped
    assert not any(module.training for module in model.modules())
    assert list(inputs) == list(inspect.signature(model.forward).parameters)
    assert {array.dtype for array in inputs.values()} <= {np.dtype("f4"), np.dtype("i8")}
    assert all(np.isfinite(array).all() for array in inputs.values())
    (count,) = {len(array) for array in inputs.values()}
    assert count >= 600
    stored = load_file(models.WEIGHTS / f"{models.source(name)}.safetensors")
    built = {key: value.numpy() for key, value in model.state_dict().items()}
    assert stored.keys() == built.keys()
    assert all(np.array_equal(stored[key], built[key]) for key in stored)


def test_the_address_builds_the_same_model(shipped):
    name, model, inputs = shipped
    module, attribute = models.address(name).split(":")
    other, others = getattr(import_module(module), attribute)()
    assert type(other) is type(model)
    assert all(np.array_equal(others[key], inputs[key]) for key in inputs)


def test_the_card_describes_the_shipped_weights(shipped):
    name, model, _ = shipped
    card, name = models.card(name), models.source(name)
    weights = models.WEIGHTS / f"{name}.safetensors"
    assert card["name"] == name
    assert card["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    assert card["tolerance"] == getattr(model, "tolerance", None)
    assert (card["tolerance"] or 0) <= 1e-5
    assert all(t <= 1e-5 for t in card["recipe"]["tolerances"][-1:])
    assert card["command"].startswith(f"odedeploy train {name} --seed {card['seed']}")
    assert card["seconds"] > 0
    assert all(0 <= value <= 1 for key, value in card["test"].items() if key != "nll")
    assert card["test"] and card["held_out"]
    assert {"licence", "source", "training", "held_out", "test"} <= card["data"].keys()
    assert {"odedeploy", "python", "torch", "torchdiffeq"} == card["versions"].keys()


def test_the_accuracies_stand_on_the_cards():
    odenet, flow = models.card("mnist-odenet"), models.card("flow-digits")
    assert 0 < odenet["test"]["error"] < 0.01 and 0 < odenet["held_out"]["error"] < 0.02
    smooth = models.card("mnist-odenet-smooth")
    assert 0 < smooth["test"]["error"] <= 0.006 and smooth["recipe"]["start"] == "mnist-odenet"
    assert 0 < models.card("mnist-mlp")["test"]["error"] < 0.025
    assert 0.9 < flow["test"]["class_accuracy"] <= 1 and 0 < flow["held_out"]["loss"] < 0.2


@pytest.mark.parametrize("name", sorted({*map(models.source, models.MODELS), *models.JUDGES}))
def test_the_card_and_the_weights_name_no_local_path(name):
    for suffix in (".json", ".safetensors"):
        content = (models.WEIGHTS / f"{name}{suffix}").read_bytes()
        assert not any(root in content for root in (b"/home", b"/work", b"/tmp", b"/root"))


def test_an_unknown_name_is_refused_with_the_nearest():
    for call in (models.build, models.address, models.card):
        with pytest.raises(UnknownName, match="did you mean 'mnist-odenet'"):
            call("mnist-odnet")


def test_the_table_loads_no_framework():
    script = (
        "import json, sys\n"
        "from odedeploy import models\n"
        "names = [(models.address(n), models.card(n)['name']) for n in models.MODELS]\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'scipy'} & sys.modules.keys()\n"
        "print(json.dumps([names, sorted(heavy)]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, cwd="/")
    names, heavy = json.loads(done.stdout)
    assert [address for address, _ in names] == [models.address(n) for n in models.MODELS]
    assert heavy == []


@pytest.mark.parametrize(
    ("model", "size", "paper"),
    [
        (Mlp, 238_510, 0.24),
        (ResNet, 577_546, 0.60),
        (RkNet, 208_266, 0.22),
        (OdeNet, 208_266, 0.22),
    ],
)
def test_the_models_of_the_table_have_the_papers_sizes(model, size, paper):
    assert sum(p.numel() for p in model().parameters()) == size
    assert size / 1e6 == pytest.approx(paper, rel=0.06)
    assert model()(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_the_rknet_is_the_odenet_by_fixed_steps():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fixed, adaptive = RkNet(4, steps=32), OdeNet(4)
    adaptive.load_state_dict(fixed.state_dict())
    image = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(fixed(image), adaptive(image), rtol=0, atol=1e-4)
        assert fixed.field.evaluations == 3 * 32
    fixed(image).sum().backward()
    assert all(p.grad is not None for p in fixed.parameters())


@pytest.mark.parametrize(("channels", "groups"), [(4, 4), (8, 8), (48, 16), (64, 32)])
def test_groups_follow_the_channels(channels, groups):
    model = OdeNet(channels, tolerance=1e-1)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert len(norms) == 6 and {m.num_groups for m in norms} == {groups}
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    field = VectorField(channels)
    state = torch.randn(2, channels, 6, 6)
    early, late = field(torch.tensor(0.0), state), field(torch.tensor(1.0), state)
    assert early.shape == state.shape and not torch.allclose(early, late)


def test_evaluations_are_counted_forward_and_by_the_adjoint():
    model = OdeNet(4, tolerance=1e-3)
    calls = []
    model.field.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    loss = model(torch.rand(2, 1, 28, 28)).square().sum()
    forward = model.evaluations
    # The adjoint solves forward without recording and evaluates the field again on its way back.
    assert forward == len(calls) >= 8 and not any(calls)
    loss.backward()
    assert model.evaluations == len(calls) > forward and all(calls[forward:])
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.field.parameters())


def test_a_tighter_tolerance_takes_more_evaluations():
    model, counts = OdeNet(4), []
    for model.tolerance in (1e-1, 1e-3, 1e-5):
        before = model.evaluations
        with torch.no_grad():
            model(torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
        counts.append(model.evaluations - before)
    assert counts[0] < counts[1] < counts[2]


def test_the_shipped_model_reads_digits():
    model, inputs = models.build("mnist-odenet")
    images, labels = torch.from_numpy(inputs["image"]), mnist.shipped().labels.astype(np.int64)
    measured = classification.measure(model, images[:128], torch.from_numpy(labels[:128]), batch=64)
    assert measured["accuracy"] >= 0.97
    assert measured["error"] == pytest.approx(1 - measured["accuracy"])


def test_measure_counts_wrong_labels_over_all_batches():
    class Sign(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            return torch.stack([-x, x], 1) * self.scale

    images = torch.tensor([-1.0, 1.0, 2.0, -2.0, 3.0])
    measured = classification.measure(Sign(), images, torch.tensor([0, 1, 0, 0, 0]), batch=2)
    assert measured == {"accuracy": 0.6, "error": 0.4}


def test_jitter_moves_every_digit_and_follows_its_generator():
    images = torch.from_numpy(mnist.pixels(tiny_training.digits(0, 16).images))
    first, again, other = (
        classification.jitter(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == images.shape and 0 <= first.min() and first.max() <= 1
    assert all(not torch.equal(a, b) for a, b in zip(first, images, strict=True))
    mass = first.sum((1, 2, 3)) / images.sum((1, 2, 3))
    assert mass.min() > 0.6 and mass.max() < 1.6


def test_the_shipped_digits_are_the_held_out_ones():
    digits = mnist.shipped()
    assert digits.images.shape == (mnist.HELD_OUT, 28, 28) and digits.images.dtype == np.uint8
    assert digits.labels.shape == (mnist.HELD_OUT,) and set(digits.labels) == set(range(10))
    assert len({image.tobytes() for image in digits.images}) == len(digits)
    content = digits.images.tobytes() + digits.labels.tobytes()
    assert hashlib.sha256(content).hexdigest() == HELD_OUT


def test_shipping_digits_round_trips(tmp_path, monkeypatch):
    digits = tiny_training.digits(5, 9)
    monkeypatch.setattr(mnist, "WEIGHTS", tmp_path)
    mnist.ship(digits, tmp_path / mnist.SHIPPED)
    back = mnist.shipped()
    assert np.array_equal(back.images, digits.images)
    assert np.array_equal(back.labels, digits.labels)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder like MNIST's with 3,000 training and 20 test images, whose label is their pixel."""
    checksums = {}
    for stem, count in (("train", 3000), ("t10k", 20)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.broadcast_to(labels[:, None, None], (count, 28, 28))
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            name = f"{stem}-{kind}-ubyte"
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape)
            data = head + array.tobytes()
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(data))
            digest = hashlib.sha256(data).hexdigest()
            checksums[name] = mnist.Checksums(digest, mnist.CHECKSUMS[name].download)
    monkeypatch.setattr(mnist, "CHECKSUMS", checksums)
    return tmp_path


@pytest.mark.parametrize(
    ("part", "first", "count"), [("train", 0, 952), ("held-out", 952, 2048), ("test", 0, 20)]
)
def test_the_parts_of_mnist_share_no_digit(folder, part, first, count):
    digits = mnist.load(part, folder)
    assert digits.images.shape == (count, 28, 28)
    assert np.array_equal(digits.labels, (first + np.arange(count)) % 10)
    assert np.array_equal(digits.images[:, 3, 4], digits.labels)
    inputs = mnist.pixels(digits.images)
    assert inputs.shape == (count, 1, 28, 28) and inputs.dtype == np.float32
    assert np.array_equal(inputs[:, 0, 0, 0], digits.labels.astype(np.float32) / 255)


def test_uncompressed_files_are_read_too(folder):
    packed = folder / "t10k-labels-idx1-ubyte.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    assert len(mnist.load("test", folder)) == 20


def test_the_test_digits_may_be_missing(folder):
    assert mnist.holds("test", folder) and mnist.holds("test", None)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    assert not mnist.holds("test", folder) and mnist.holds("train", folder)
    with pytest.raises(BadInput, match="t10k-labels-idx1-ubyte.gz"):
        mnist.load("test", folder)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: data[:100], "cannot be read"),
        (lambda data: b"not gzip", "cannot be read"),
        (lambda data: gzip.compress(gzip.decompress(data) + b"x"), "checksum differs"),
    ],
)
def test_a_damaged_file_is_refused(folder, damage, why):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadInput, match=why):
        mnist.load("train", folder)


def test_an_unknown_part_is_refused(folder):
    with pytest.raises(UnknownName, match="held-out"):
        mnist.load("heldout", folder)


def test_files_are_fetched_once_with_their_checksums(folder, monkeypatch):
    import pooch

    asked = []

    def retrieve(url, known_hash, fname, path):
        asked.append((url, known_hash))
        return str(folder / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert len(mnist.load("test")) == 20
    names = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    assert asked == [
        (f"{mnist.MIRROR}{name}.gz", f"md5:{mnist.CHECKSUMS[name].download}") for name in names
    ]


@pytest.mark.parametrize("failure", [ConnectionError("offline"), ValueError("hash differs")])
def test_a_failed_fetch_says_what_to_do(monkeypatch, failure):
    import pooch

    def retrieve(*_, **__):
        raise failure

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(BadInput, match="--data DIR"):
        mnist.load("train")


def test_fetching_without_pooch_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(Unusable, match="pooch"):
        mnist.load("train")
