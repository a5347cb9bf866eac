"""Arrays as JSON: the name of their type in onnxruntime's JavaScript, their sizes, their bytes."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np


def pack(array: np.ndarray) -> dict[str, Any]:
    """What ``tensors.mjs`` makes a tensor of."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return {
        "type": array.dtype.name,
        "dims": list(array.shape),
        "data": base64.b64encode(little.tobytes()).decode("ascii"),
    }


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """The array of a tensor."""
    data = bytearray(base64.b64decode(packed["data"]))
    kind = np.dtype(packed["type"]).newbyteorder("<")
    return np.frombuffer(data, kind).reshape(packed["dims"])
