"""MAGIC: measurements of gamma-ray and hadron showers, shipped whole.

Source: Bock, *MAGIC Gamma Telescope*, UCI Machine Learning Repository, 2004
(doi 10.24432/C52C8B), CC BY 4.0; 10 columns that describe the image of a shower, simulated.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from odedeploy import files
from odedeploy.errors import BadInput, UnknownName
from odedeploy.models import WEIGHTS

SHIPPED = "magic.npz"
COLUMNS = 10
HELD_OUT = 2048
PARTS = {
    "train": slice(None, -2 * HELD_OUT),
    "held-out": slice(-2 * HELD_OUT, -HELD_OUT),
    "test": slice(-HELD_OUT, None),
}
FACTS: dict[str, Any] = {
    "name": "MAGIC gamma telescope",
    "source": "Bock, MAGIC Gamma Telescope, UCI Machine Learning Repository, 2004",
    "url": "https://doi.org/10.24432/C52C8B",
    "licence": "CC BY 4.0",
    "training": "14,685 showers, standardised by their own mean and deviation",
    "held_out": f"{HELD_OUT:,} other showers, the calibration inputs",
    "test": f"{HELD_OUT:,} other showers: mean of −log p in nats, of standardised columns",
}


def load(part: str) -> np.ndarray:
    """``"train"``, ``"held-out"`` or ``"test"``: standardised rows (n, 10) float32.

    Mean and standard deviation are those of the training rows. Raises UnknownName for another part.
    """
    if part not in PARTS:
        raise UnknownName("part of MAGIC", part, PARTS)
    with np.load(WEIGHTS / SHIPPED, allow_pickle=False) as content:
        rows = content["rows"].astype(np.float64)
    train = rows[PARTS["train"]]
    found: np.ndarray = ((rows[PARTS[part]] - train.mean(0)) / train.std(0)).astype(np.float32)
    return found


def ship(table: Path, path: Path = WEIGHTS / SHIPPED) -> None:
    """Write the rows of the published table as the .npz that ``load`` reads.

    ``table`` is the comma-separated file: 10 numbers and a class a line, lines that begin with @
    left out. Repeated rows and rows with a width or asymmetry of exactly 0, which stands for no
    measurement, are dropped; the rest is shuffled by a fixed seed. Raises BadInput for a file
    that is no such table.
    """
    try:
        lines = table.read_text(encoding="ascii").split()
        cells = [line.split(",")[:COLUMNS] for line in lines if "," in line and line[0] != "@"]
        rows = np.unique(np.array(cells, dtype=np.float32), axis=0)
    except (OSError, ValueError) as error:
        raise BadInput(f"{table} is not the table of MAGIC ({error}).") from error
    rows = rows[(rows[:, [0, 1, 5, 6, 7]] != 0).all(axis=1)]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, rows=np.random.default_rng(0).permutation(rows))
    files.replace(path, buffer.getvalue())
