"""Weights bear the names that they have in the PyTorch model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir
from torch import nn

from odedeploy.graph import SOLVE_DOMAIN, Site

Key = tuple[str, bytes]


def biases(graph: ir.Model, site: Site, model: nn.Module) -> tuple[str, ...]:
    """The one-dimensional biases of ``model``, by PyTorch's naming, that the field of ``site``
    reads; all of the model's where the graph does not hold the field.
    """
    named = [
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() == 1 and parameter.is_floating_point()
        and name.rpartition(".")[2].startswith("bias")
    ]
    if not site.field:
        return tuple(named)
    read = {
        value.name
        for node in graph.graph
        if node.domain == SOLVE_DOMAIN and node.name == site.name
        for value in node.inputs[site.states :]
        if value is not None and value.is_initializer()
    }
    return tuple(name for name in named if name in read)


def rename(
    model: ir.Model, names: Mapping[str, str], parameters: Mapping[str, nn.Parameter]
) -> None:
    """Give initializers called by the keys of ``names`` the names that are its values.

    The exporter folds a reshaped parameter, as of a normalisation, into an initializer of its own.
    It is known by its elements where they are like no other's, and named after the one among
    ``parameters`` that it came from.
    """
    held = model.graph.initializers
    for old, new in names.items():
        if old in held and new not in held:
            held[old].name = new
    lost = {name: p.detach().cpu().numpy() for name, p in parameters.items() if name not in held}
    known = set(names.values())
    folded = {
        name: value.const_value.numpy()
        for name, value in held.items()
        if name not in known and value.const_value is not None
    }
    sources, places = _by_elements(lost.items()), _by_elements(folded.items())
    for key, source in sources.items():
        place = places.get(key, [])
        if len(source) == len(place) == 1:
            held[place[0]].name = source[0]


def _by_elements(arrays: Iterable[tuple[str, np.ndarray]]) -> dict[Key, list[str]]:
    """Names by dtype and elements; an array of equal elements could be anything and is left out."""
    found = defaultdict[Key, list[str]](list)
    for name, array in arrays:
        if array.dtype.kind == "f" and array.size > 1 and array.min() < array.max():
            found[array.dtype.name, np.ascontiguousarray(array).tobytes()].append(name)
    return found
