"""``flow-digits``: a class-conditional flow-matching generator of MNIST's digits.

A small U-Net f(t, x, label) on (batch, 1, 28, 28) is regressed on the velocity x1 − x0 of the
straight path x_t = (1 − t) x0 + t x1 from noise x0 to a digit x1; sampling solves dx/dt = f from
t = 0 to t = 0.97 and ends with the digit that f then points at, x + 0.03 f, because the regressed
field contracts at a rate of 1/(1 − t), which no explicit method follows to t = 1. Noise and digits
of a batch are paired by optimal transport within each label.

Sources: Lipman, Chen, Ben-Hamu, Nickel, Le, *Flow Matching for Generative Modeling*, ICLR 2023
(arXiv 2210.02747); Tong et al., *Improving and generalizing flow-based generative models with
minibatch optimal transport*, TMLR 2024 (arXiv 2302.00482).
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, silu
from torchdiffeq import odeint

from odedeploy.models import digit_classifier, mnist, publishing
from odedeploy.models.classification import predict, tensors
from odedeploy.models.tasks import Batch, Metrics, Recipe, Task

NAME = "flow-digits"
FINE, COARSE = 16, 48
EMBEDDING = 128
FREQUENCIES = 16
CLASSES = 10
CALIBRATION = 2048
END = 0.97
"""Where the solve ends; the rest of the path is one straight step."""

JUDGED = 1000
RECIPE = Recipe(epochs=16, averaging=0.998)
FACTS = mnist.FACTS | {
    "held_out": f"the last {mnist.HELD_OUT:,} training digits",
    "calibration": f"{CALIBRATION:,} draws of noise and label, seed 0",
    "test": f"class accuracy of {JUDGED:,} other draws, read by {digit_classifier.NAME}",
}


class TimeEmbedding(nn.Module):
    """t of shape () or (batch,) → (…, 128): sines and cosines of 1 to 32 rad, then an MLP."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        frequencies = torch.logspace(0, 5, FREQUENCIES, base=2.0)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING)
        )

    def forward(self, t: Tensor) -> Tensor:
        phase = t[..., None] * self.frequencies
        out: Tensor = self.mlp(torch.cat([torch.sin(phase), torch.cos(phase)], dim=-1))
        return out


class Block(nn.Module):
    """Residual block of two 3 × 3 convolutions, scaled and shifted in between by the embedding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)
        self.modulation = nn.Linear(EMBEDDING, 2 * channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        out: Tensor = x + self.conv2(silu(self.norm2(h) * (1 + scale) + shift))
        return out


class VectorField(nn.Module):
    """f(t, x, label): velocity (batch, 1, 28, 28) of x (batch, 1, 28, 28), label (batch,) int64.

    Works on 2 × 2 patches: ``fine`` channels at 14 × 14, ``coarse`` channels at 7 × 7, and a skip.
    ``t`` is one time () or one a sample (batch,).
    """

    def __init__(self, fine: int = FINE, coarse: int = COARSE, depth: int = 3) -> None:
        super().__init__()
        self.time = TimeEmbedding()
        self.label = nn.Embedding(CLASSES, EMBEDDING)
        self.enter = nn.Conv2d(4, fine, kernel_size=3, padding=1)
        self.before = Block(fine)
        self.down = nn.Conv2d(fine, coarse, kernel_size=2, stride=2)
        self.middle = nn.ModuleList(Block(coarse) for _ in range(depth))
        self.up = nn.Conv2d(coarse, 4 * fine, kernel_size=1)
        self.merge = nn.Conv2d(2 * fine, fine, kernel_size=1)
        self.after = Block(fine)
        self.leave = nn.Sequential(
            nn.GroupNorm(8, fine), nn.SiLU(), nn.Conv2d(fine, 4, kernel_size=3, padding=1)
        )

    def forward(self, t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        embedding = silu(self.time(t) + self.label(label))
        skip = self.before(self.enter(pixel_unshuffle(x, 2)), embedding)
        h = self.down(skip)
        for block in self.middle:
            h = block(h, embedding)
        h = self.merge(torch.cat([skip, pixel_shuffle(self.up(h), 2)], dim=1))
        return pixel_shuffle(self.leave(self.after(h, embedding)), 2)


class FlowDigits(nn.Module):
    """Sampler: noise (batch, 1, 28, 28), label (batch,) int64 → images (batch, 1, 28, 28).

    Images lie about [0, 1], black to white; nothing clips them. ``tolerance`` is rtol = atol of
    the adaptive solve.
    """

    def __init__(
        self, fine: int = FINE, coarse: int = COARSE, depth: int = 3, tolerance: float = 1e-5
    ) -> None:
        super().__init__()
        self.field = VectorField(fine, coarse, depth)
        self.tolerance = tolerance

    def forward(self, noise: Tensor, label: Tensor) -> Tensor:
        times = torch.tensor([0.0, END], dtype=noise.dtype, device=noise.device)
        trajectory = odeint(
            lambda t, x: self.field(t, x, label),
            noise,
            times,
            rtol=self.tolerance,
            atol=self.tolerance,
            method="dopri5",
        )
        last = trajectory[-1]
        digit: Tensor = last + (1 - END) * self.field(times[-1], last, label)
        return (digit + 1) / 2


def build() -> tuple[FlowDigits, dict[str, np.ndarray]]:
    """The trained sampler in eval mode, and 2,048 seeded draws of ``noise`` and ``label``."""
    model = FlowDigits()
    model.load_state_dict(publishing.shipped_weights(NAME))
    return model.eval(), draws(CALIBRATION)


def draws(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """``noise`` (count, 1, 28, 28) float32, standard normal, and ``label`` (count,) int64."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((count, 1, 28, 28), dtype=np.float32)
    return {"noise": noise, "label": random.integers(0, CLASSES, count)}


def task(data: Path | None = None) -> Task:
    """Match the flow from noise to MNIST's training digits; the last 2,048 are held out.

    ``data`` is the folder of the IDX files; without it they are fetched once. The test measures
    the class accuracy of samples, judged by ``digit-classifier``.

    Raises BadInput for files that are missing, damaged or cannot be fetched.
    """
    return match(FlowDigits, RECIPE, mnist.load("train", data), mnist.load("held-out", data))


def match(
    model: type[FlowDigits], recipe: Recipe, digits: mnist.Digits, held_out: mnist.Digits
) -> Task:
    """The task of training ``model`` to generate ``digits``."""
    images, labels = states(digits)

    def batch(rows: Tensor, generator: Generator) -> Batch:
        return couple(images[rows], labels[rows], generator)

    def channels_last() -> nn.Module:
        made = model()
        made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return made

    return Task(
        name=NAME,
        model=channels_last,
        size=len(digits),
        batch=batch,
        loss=loss,
        held_out=lambda trained: held_out_loss(cast(FlowDigits, trained), *states(held_out)),
        test=lambda trained: class_accuracy(cast(FlowDigits, trained)),
        recipe=recipe,
        data=FACTS,
    )


def states(digits: mnist.Digits) -> tuple[Tensor, Tensor]:
    """Digits as end states x1 (n, 1, 28, 28) in [−1, 1], and their labels (n,) int64."""
    images, labels = tensors(digits)
    return 2 * images - 1, labels


def couple(digits: Tensor, labels: Tensor, generator: Generator) -> Batch:
    """(x0, x1, t, label): noise paired with ``digits`` within each label, and stratified times.

    The pairing is the assignment of least total squared distance, over the pairs of one label.
    """
    from scipy.optimize import linear_sum_assignment

    n = len(digits)
    noise = torch.randn(digits.shape, generator=generator)
    paired = torch.empty_like(noise)
    for label in torch.unique(labels):
        rows = torch.nonzero(labels == label).flatten()
        cost = torch.cdist(digits[rows].flatten(1), noise[rows].flatten(1)).square()
        _, columns = linear_sum_assignment(cost.numpy())
        paired[rows] = noise[rows[torch.from_numpy(columns)]]
    times = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    return paired, digits, times, labels


def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
    """Mean squared error of the field against the velocity x1 − x0 on the straight path."""
    start, end, times, labels = batch
    t = times[:, None, None, None]
    state = ((1 - t) * start + t * end).contiguous(memory_format=torch.channels_last)
    velocity = cast(FlowDigits, model).field(times, state, labels)
    return (velocity - (end - start)).square().mean(), {}


@torch.no_grad()
def held_out_loss(model: FlowDigits, digits: Tensor, labels: Tensor, batch: int = 256) -> Metrics:
    """The flow-matching loss on ``digits``, with noise and times of a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    parts = zip(torch.split(digits, batch), torch.split(labels, batch), strict=True)
    batches = (couple(*part, generator) for part in parts)
    losses = [loss(model, tuple(part.to(device) for part in each))[0].item() for each in batches]
    return {"loss": sum(losses) / len(losses)}


@torch.no_grad()
def class_accuracy(model: FlowDigits, count: int = JUDGED, batch: int = 250) -> Metrics:
    """Share of samples, by the model's own solve, that the classifier reads as their label.

    ``count`` draws, none of which is a calibration input.
    """
    device = next(model.parameters()).device
    inputs = draws(count, seed=1)
    noise, labels = torch.from_numpy(inputs["noise"]), torch.from_numpy(inputs["label"])
    pairs = zip(torch.split(noise, batch), torch.split(labels, batch), strict=True)
    images = torch.cat([model(x.to(device), label.to(device)).cpu() for x, label in pairs])
    right = predict(digit_classifier.build(), images) == labels
    return {"class_accuracy": right.float().mean().item()}
