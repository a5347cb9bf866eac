"""Arrays by name as the bytes of an .npz file, any name allowed, never pickled."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from typing import BinaryIO

import numpy as np


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A compressed .npz; unlike ``numpy.savez``, no name is taken for an option."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


def unpack_arrays(source: str | os.PathLike[str] | BinaryIO) -> dict[str, np.ndarray] | np.ndarray:
    """The arrays of an .npz by name, or the array of an .npy; raises ValueError with the reason."""
    try:
        # Given a path, numpy leaves its file open when the archive is damaged.
        with nullcontext(source) if hasattr(source, "read") else open(source, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return loaded if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()).rstrip(".")
        raise ValueError(reason) from error
