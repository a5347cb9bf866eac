"""Finding a person's model: an address, its weights, its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from odedeploy.addresses import first_line, resolve
from odedeploy.errors import BadInput
from odedeploy.frontends.noise import Noisy
from odedeploy.frontends.recording import input_names
from odedeploy.graph import Inputs


@dataclass(frozen=True)
class Loaded:
    """A model ready to be captured.

    ``inputs`` are calibration inputs by the names of forward's arguments, ``static`` names those
    without a batch axis. ``address`` builds the model again in another process. ``inputs_file`` is
    where the inputs were read from, when it was a file.
    """

    name: str
    module: nn.Module
    inputs: Inputs
    static: frozenset[str] = frozenset()
    address: str = ""
    weights: Path | None = None
    inputs_file: Path | None = None


def load_model(address: str, weights: Path | None = None) -> tuple[nn.Module, Inputs | None]:
    """The module that ``address`` builds, with its example inputs when it gives any.

    ``address`` is ``path/to/file.py:callable`` or ``package.module:callable``; the callable takes
    no arguments and returns an ``nn.Module``, or the module and example inputs: a tensor or array,
    a tuple of them in the order of forward's arguments, or a dict by their names. ``weights`` is a
    safetensors file, or a .pt file that is read with ``weights_only``.

    Raises BadInput for an address that leads nowhere, a factory that raises, a result that is not
    a model, and weights that do not fit it.
    """
    factory = resolve(address, "model", "builds the model")
    if not callable(factory):
        raise BadInput(f"{address} is a {type(factory).__name__}, not a callable that builds one.")
    try:
        built = factory()
    except Exception as error:
        raise BadInput(
            f"{address} raised {type(error).__name__} ({first_line(error)}); "
            "it must build the model without arguments."
        ) from error
    model, inputs = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    if not isinstance(model, nn.Module):
        raise BadInput(f"{address} returned a {type(model).__name__}; return a torch.nn.Module.")
    if weights is not None:
        _load_weights(model, weights)
    return model, None if inputs is None else named_inputs(model, inputs)


def named_inputs(model: nn.Module, inputs: Any) -> dict[str, np.ndarray]:
    """Arrays by the names of forward's arguments, from a tensor, an array, a tuple or a dict.

    Raises BadInput for anything else, for names that forward lacks and for arrays of objects.
    """
    if isinstance(inputs, Mapping):
        named = dict(inputs)
    else:
        given = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
        named = dict(zip(input_names(model, len(given)), given, strict=True))
    known = input_names(model, 0)
    if unknown := [name for name in named if name not in known]:
        raise BadInput(
            f"forward of {type(model).__name__} has no input {', '.join(unknown)}; "
            f"its inputs are {', '.join(known)}."
        )
    arrays = {name: array(name, value) for name, value in named.items()}
    return model.filled(arrays) if isinstance(model, Noisy) else arrays




def _load_weights(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise BadInput(f"The weights {path} do not exist.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, weights_only=True, map_location="cpu")
        model.load_state_dict(state)
    except Exception as error:
        raise BadInput(
            f"The weights {path} do not fit the model: {first_line(error)}"
        ) from error


def array(name: str, value: Any) -> np.ndarray:
    """``value`` as an array; Python floats in single precision, as PyTorch makes them.

    Raises BadInput when it does not hold numbers.
    """
    if isinstance(value, float):
        return np.asarray(value, np.float32)
    numbers = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if numbers.dtype.kind not in "fiub":
        raise BadInput(f"The input {name!r} holds {numbers.dtype}, not numbers.")
    return numbers
