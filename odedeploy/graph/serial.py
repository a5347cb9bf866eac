"""The ODE graph's structure as text, next to the weights of the artefact that carries it.

The text is JSON: the ``sites`` without their locations, the ONNX model as base64 of zlib, and for
each tensor that the artefact holds as well, under its own or another name, where it is found.
Those tensors are left out of the model; the others travel inside it. ``fields`` are dtype and
shape of the functions' inputs, for which ONNX has no place.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto

from odedeploy.errors import BadInput
from odedeploy.graph.records import OdeGraph, Site
from odedeploy.graph.strip import strip
from odedeploy.program import Plan

FORMAT = "odedeploy.graph/1"

Key = tuple[int, tuple[int, ...], bytes]


def pack(graph: OdeGraph, present: Mapping[str, ir.Value]) -> str:
    """``graph`` as text, without the tensors that are among ``present``, an artefact's weights.

    Tensors are compared by dtype, shape and bytes. Neither paths nor stack traces are written.
    Raises BadInput for a graph that traces every plan, which takes the live model.
    """
    if graph.trace is not None:
        raise BadInput(
            "The ODE graph of this model cannot be put in a file, because its plans are traced "
            "from the PyTorch model; export it once per tolerance."
        )
    model = graph.model.clone()
    strip(model)
    held = _Held(present)
    tensors: dict[str, list[Any]] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        found = None if tensor is None else held.find(name, tensor)
        if tensor is not None and found is not None:
            tensors[name] = [found, _crc(tensor)]
            value.const_value = ir.tensor(np.empty(0, tensor.dtype.numpy()), tensor.dtype, name)
            value.shape = None
    body = ir.to_proto(model).SerializeToString(deterministic=True)
    text = base64.b64encode(zlib.compress(body, 9)).decode("ascii")
    sites = [_site_to_json(site) for site in graph.sites]
    fields = {
        function.name: [_type_to_json(value) for value in function.inputs]
        for function in model.functions.values()
    }
    return json.dumps(
        {"format": FORMAT, "sites": sites, "tensors": tensors, "fields": fields, "model": text}
    )


def unpack(text: str, tensors: Mapping[str, np.ndarray]) -> OdeGraph:
    """The graph that ``pack`` wrote; ``tensors`` are the artefact's weights by name.

    Raises BadInput for a text that ``pack`` did not write or that was cut, and for tensors that
    are missing or are not those that the graph was packed with.
    """
    try:
        data = json.loads(text)
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r}")
        sites = tuple(_site_from_json(site) for site in data["sites"])
        body = zlib.decompress(base64.b64decode(data["model"], validate=True))
        model = ir.from_proto(ModelProto.FromString(body))
        for function in model.functions.values():
            for value, known in zip(function.inputs, data["fields"][function.name], strict=True):
                _set_type(value, *known)
        left_out = [(n, str(source), int(crc)) for n, (source, crc) in data["tensors"].items()]
        values = [(model.graph.initializers[name], *rest) for name, *rest in left_out]
    except (ValueError, LookupError, TypeError, AttributeError, zlib.error, DecodeError) as error:
        raise BadInput(
            f"This is not the text of an ODE graph: {error!r}; give a file that export wrote."
        ) from error
    for value, source, crc in values:
        _fill(value, source, crc, tensors)
    return OdeGraph(model, sites)


class _Held:
    """An artefact's tensors, found by content."""

    def __init__(self, present: Mapping[str, ir.Value]) -> None:
        self._names: dict[tuple[int, tuple[int, ...]], list[str]] = {}
        self._present = present
        for name, value in present.items():
            if value.const_value is not None:
                key = value.const_value.dtype.value, tuple(value.const_value.shape.numpy())
                self._names.setdefault(key, []).append(name)

    def find(self, name: str, tensor: ir.TensorProtocol) -> str | None:
        """Where the artefact holds ``tensor``, if possible under its own ``name``."""
        key = tensor.dtype.value, tuple(tensor.shape.numpy())
        candidates = sorted(self._names.get(key, []), key=lambda found: found != name)
        wanted = tensor.tobytes() if candidates else b""
        for found in candidates:
            held = self._present[found].const_value
            if held is tensor or (held is not None and held.tobytes() == wanted):
                return found
        return None


def _fill(value: ir.Value, source: str, crc: int, tensors: Mapping[str, np.ndarray]) -> None:
    placeholder = value.const_value
    if source not in tensors or placeholder is None:
        raise BadInput(
            f"The weight {source!r} of the ODE graph is not in the file; give the file as exported."
        )
    array = tensors[source]
    known = array.dtype == placeholder.dtype.numpy()
    tensor = ir.tensor(array, dtype=placeholder.dtype, name=value.name) if known else None
    if tensor is None or _crc(tensor) != crc:
        raise BadInput(
            f"The weight {source!r} in the file is not the one that its ODE graph was captured "
            "with; give the file as exported."
        )
    value.const_value, value.shape = tensor, ir.Shape(tensor.shape.numpy())


def _crc(tensor: ir.TensorProtocol) -> int:
    """Checksum of dtype, shape and bytes."""
    kind = f"{tensor.dtype.value} {tuple(tensor.shape.numpy())}"
    return zlib.crc32(tensor.tobytes(), zlib.crc32(kind.encode()))


def _type_to_json(value: ir.Value) -> tuple[int | None, list[int | str | None] | None]:
    dtype = None if value.dtype is None else value.dtype.value
    if value.shape is None:
        return dtype, None
    return dtype, [axis if isinstance(axis, int) else axis.value for axis in value.shape]


def _set_type(value: ir.Value, dtype: int | None, shape: list[int | str | None] | None) -> None:
    value.type = None if dtype is None else ir.TensorType(ir.DataType(dtype))
    value.shape = None if shape is None else ir.Shape(shape)


def _site_to_json(site: Site) -> dict[str, Any]:
    data = asdict(site)
    del data["location"]
    data["kept"] = None if site.kept is None else Plan((site.kept,)).to_json()
    return data


def _site_from_json(data: dict[str, Any]) -> Site:
    kept = data["kept"]
    return Site(
        str(data["name"]),
        str(data["field"]),
        tuple(map(float, data["times"])),
        int(data["states"]),
        str(data["method"]),
        None if kept is None else Plan.from_json(kept).solves[0],
        interval=data.get("interval"),
        constants=tuple(map(str, data.get("constants", ()))),
    )
