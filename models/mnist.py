"""MNIST: the four standard IDX files, from a folder or fetched once with checksums.

Source: LeCun, Cortes, Burges, *The MNIST database of handwritten digits*, CC BY-SA 3.0.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from odedeploy import files
from odedeploy.errors import BadInput, UnknownName, Unusable
from odedeploy.models import WEIGHTS

MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
HELD_OUT = 2048
SHIPPED = "mnist-digits.npz"

FACTS: dict[str, Any] = {
    "name": "MNIST",
    "source": "LeCun, Cortes, Burges, The MNIST database of handwritten digits",
    "url": MIRROR,
    "licence": "CC BY-SA 3.0",
    "training": "the first 57,952 training digits",
    "held_out": f"the last {HELD_OUT:,} training digits, shipped as {SHIPPED} for calibration",
    "test": "the 10,000 test digits",
}


@dataclass(frozen=True)
class Checksums:
    """``content`` is the sha256 of the uncompressed file, whose gzip bytes differ between mirrors;
    ``download`` is the md5 of the mirror's .gz."""

    content: str
    download: str


CHECKSUMS = {
    "train-images-idx3-ubyte": Checksums(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    ),
    "train-labels-idx1-ubyte": Checksums(
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "d53e105ee54ea40749a09fcbcd1e9432",
    ),
    "t10k-images-idx3-ubyte": Checksums(
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "9fb629c4189551a2d022fa330f9573f3",
    ),
    "t10k-labels-idx1-ubyte": Checksums(
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
}

PARTS = {
    "train": ("train", slice(None, -HELD_OUT)),
    "held-out": ("train", slice(-HELD_OUT, None)),
    "test": ("t10k", slice(None)),
}


@dataclass(frozen=True)
class Digits:
    """``images`` (n, 28, 28) uint8 and ``labels`` (n,) uint8."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def load(part: str, folder: Path | None = None) -> Digits:
    """One part of MNIST.

    ``part`` is ``"train"`` (the first 57,952 training digits), ``"held-out"`` (the last 2,048
    training digits, which no training step sees) or ``"test"`` (the 10,000 test digits).
    ``folder`` holds the IDX files, compressed or not; without it they are fetched once.

    Raises UnknownName for another part, BadInput for a file that is missing, damaged or cannot be
    fetched, and Unusable when fetching needs a package that is not installed.
    """
    if part not in PARTS:
        raise UnknownName("part of MNIST", part, PARTS)
    stem, keep = PARTS[part]
    images = _idx(_read(f"{stem}-images-idx3-ubyte", folder))
    labels = _idx(_read(f"{stem}-labels-idx1-ubyte", folder))
    return Digits(images[keep], labels[keep])


def holds(part: str, folder: Path | None) -> bool:
    """Whether ``folder`` holds both files of ``part``; without a folder they are fetched: True."""
    stem, _ = PARTS[part]
    names = (f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte")
    return folder is None or all(_find(name, folder) is not None for name in names)


def shipped() -> Digits:
    """The packaged calibration digits: the 2,048 of ``"held-out"``, in the same order."""
    with np.load(WEIGHTS / SHIPPED, allow_pickle=False) as content:
        return Digits(content["images"], content["labels"])


def ship(digits: Digits, path: Path) -> None:
    """Write digits as the compressed .npz that ``shipped`` reads, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=digits.images, labels=digits.labels)
    files.replace(path, buffer.getvalue())


def pixels(images: np.ndarray) -> np.ndarray:
    """(n, 28, 28) uint8 → (n, 1, 28, 28) float32 in [0, 1]."""
    return images[:, None].astype(np.float32) / 255


def _read(name: str, folder: Path | None) -> bytes:
    path = _fetch(name) if folder is None else _find(name, folder)
    if path is None:
        raise BadInput(f"{folder} holds no {name}.gz; give the folder of MNIST's four IDX files.")
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read ({error}); fetch it again.") from error
    if hashlib.sha256(data).hexdigest() != CHECKSUMS[name].content:
        raise BadInput(f"{path} is not MNIST's {name}: its checksum differs; fetch it again.")
    return data


def _find(name: str, folder: Path) -> Path | None:
    candidates = (folder / f"{name}.gz", folder / name)
    return next((path for path in candidates if path.is_file()), None)


def _fetch(name: str) -> Path:
    try:
        import pooch
    except ImportError as error:
        raise Unusable(
            "Fetching MNIST needs the package pooch; install odedeploy[export] or give --data DIR."
        ) from error
    try:
        return Path(
            pooch.retrieve(
                f"{MIRROR}{name}.gz",
                known_hash=f"md5:{CHECKSUMS[name].download}",
                fname=f"{name}.gz",
                path=pooch.os_cache("odedeploy"),
            )
        )
    except (OSError, ValueError) as error:
        raise BadInput(
            f"MNIST could not be fetched ({type(error).__name__}); "
            "give the folder of its four IDX files with --data DIR."
        ) from error


def _idx(data: bytes) -> np.ndarray:
    rank = data[3]
    shape = np.frombuffer(data, ">i4", rank, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
