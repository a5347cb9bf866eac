"""Files of calibration inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from odedeploy.errors import BadInput


def read_inputs(path: Path) -> dict[str, np.ndarray] | tuple[np.ndarray, ...]:
    """Arrays of an .npz or .safetensors file, or of a .npy file as the only input.

    Arrays named ``arr_0``, ``arr_1`` … come back as a tuple, in the order of forward's arguments.
    Raises BadInput for a file that is missing, of another kind, or holds Python objects.
    """
    if not path.is_file():
        raise BadInput(f"The inputs {path} do not exist; give an .npz, .npy or .safetensors file.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(path)
        if path.suffix not in (".npz", ".npy"):
            raise BadInput(f"{path} is neither .npz, .npy nor .safetensors; convert the inputs.")
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return (content,)
        with content:
            arrays = {name: content[name] for name in content.files}
    except BadInput:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = lines[0][:200] if lines else "no message"
        raise BadInput(f"{path} cannot be read ({reason}); write it again.") from error
    if arrays and all(name == f"arr_{i}" for i, name in enumerate(arrays)):
        return tuple(arrays.values())
    return arrays
