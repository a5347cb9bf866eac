"""MNIST: the four standard IDX files, from a folder or fetched once with checksums.

Source: LeCun, Cortes, Burges, *The MNIST database of handwritten digits*, CC BY-SA 3.0.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from odedeploy.errors import BadInput

if TYPE_CHECKING:
    from torch import Generator, Tensor

MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"

# sha256 of the uncompressed files: gzip's own bytes differ between mirrors.
CHECKSUMS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

HELD_OUT = 2048


@dataclass(frozen=True)
class Digits:
    """``images`` (n, 28, 28) uint8 and ``labels`` (n,) uint8."""

    images: np.ndarray
    labels: np.ndarray


def load(part: str, folder: Path | None = None) -> Digits:
    """One part of MNIST.

    ``part`` is ``"train"`` (the first 57,952 training digits), ``"held-out"`` (the last 2,048
    training digits, which no training step sees) or ``"test"`` (the 10,000 test digits).
    ``folder`` holds the IDX files, compressed or not; without it they are fetched once.

    Raises BadInput for a missing file or one whose checksum is wrong.
    """
    stem = "t10k" if part == "test" else "train"
    images = _idx(_read(f"{stem}-images-idx3-ubyte", folder))
    labels = _idx(_read(f"{stem}-labels-idx1-ubyte", folder))
    keep = {
        "train": slice(None, -HELD_OUT),
        "held-out": slice(-HELD_OUT, None),
        "test": slice(None),
    }[part]
    return Digits(images[keep], labels[keep])


def pixels(images: np.ndarray) -> np.ndarray:
    """(n, 28, 28) uint8 → (n, 1, 28, 28) float32 in [0, 1]."""
    return images[:, None].astype(np.float32) / 255


def jitter(images: Tensor, generator: Generator) -> Tensor:
    """Random affine copies of (n, 1, 28, 28): ±10° rotation, ±10 % scale, ±2 pixels shift."""
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    n = len(images)
    angle, scale, dx, dy = torch.rand(4, n, generator=generator) * 2 - 1
    angle, scale = angle * (torch.pi / 18), 1 + 0.1 * scale
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift = 2 / 14
    rows = [torch.stack([cos, -sin, dx * shift], 1), torch.stack([sin, cos, dy * shift], 1)]
    grid = affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return grid_sample(images, grid, align_corners=False)


def _read(name: str, folder: Path | None) -> bytes:
    path = _find(name, folder) if folder is not None else _fetch(name)
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    if hashlib.sha256(data).hexdigest() != CHECKSUMS[name]:
        raise BadInput(f"{path} is not MNIST's {name}: its checksum differs; fetch it again.")
    return data


def _find(name: str, folder: Path) -> Path:
    for candidate in (folder / f"{name}.gz", folder / name):
        if candidate.is_file():
            return candidate
    raise BadInput(f"{folder} holds no {name}.gz; give the folder of MNIST's four IDX files.")


def _fetch(name: str) -> Path:
    import pooch

    try:
        return Path(pooch.retrieve(f"{MIRROR}{name}.gz", known_hash=None, fname=f"{name}.gz",
                                   path=pooch.os_cache("odedeploy")))
    except OSError as error:
        raise BadInput(
            f"MNIST could not be fetched ({type(error).__name__}); give its folder with --data DIR."
        ) from error


def _idx(data: bytes) -> np.ndarray:
    rank = data[3]
    shape = np.frombuffer(data, ">i4", rank, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
