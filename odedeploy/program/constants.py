"""Values that one evaluation of a vector field has of its own in place of trained parameters."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from odedeploy.errors import BadInput

_DTYPES = ("float32", "float64")


class Constants(Mapping[str, np.ndarray]):
    """Arrays by the name of the parameter they stand in for, read-only, in order of the names.

    Equal when names, dtypes, shapes and bytes are. Raises BadInput for arrays that are neither
    float32 nor float64, or not finite.
    """

    __slots__ = ("_arrays",)

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        for name in sorted(arrays):
            array = np.array(arrays[name], order="C")
            if array.dtype.name not in _DTYPES or not np.isfinite(array).all():
                raise BadInput(
                    f"The constants of {name!r} are {array.dtype} or not finite; give finite "
                    "float32 or float64."
                )
            array.flags.writeable = False
            self._arrays[name] = array

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constants) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        shapes = {name: f"{a.dtype}{list(a.shape)}" for name, a in self.items()}
        return f"Constants({shapes}, {hash(self):#x})"

    def to_json(self) -> dict[str, Any]:
        """By name: dtype, shape and base64 of the little-endian elements."""
        return {
            name: {
                "dtype": array.dtype.name,
                "shape": list(array.shape),
                "base64": base64.b64encode(_little(array).tobytes()).decode("ascii"),
            }
            for name, array in self.items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Constants:
        """Raises ValueError, LookupError or TypeError for anything that ``to_json`` did not
        write.
        """
        return cls({str(name): _array(entry) for name, entry in data.items()})

    def _key(self) -> tuple[tuple[str, str, tuple[int, ...], bytes], ...]:
        return tuple((n, a.dtype.name, a.shape, a.tobytes()) for n, a in self.items())


def _little(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _array(entry: Mapping[str, Any]) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(entry["dtype"])
    dtype = np.dtype(entry["dtype"])
    flat = np.frombuffer(base64.b64decode(entry["base64"], validate=True), dtype.newbyteorder("<"))
    return flat.reshape([int(axis) for axis in entry["shape"]]).astype(dtype)
