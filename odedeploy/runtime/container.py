"""Whether an ONNX file is whole and self-contained, read from its bytes alone.

An ONNX file is a protobuf message. A tensor whose data stand in another file says so in its
``external_data`` or ``data_location``; onnxruntime would open whatever path is written there.
Field numbers: onnx.proto3 of ONNX; wire format: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from odedeploy.errors import BadInput

_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Field number → kind of message, for every message that can hold a tensor."""

_EXTERNAL_DATA, _DATA_LOCATION, _NAME = 13, 14, 8
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}

_Span = tuple[int, int]
"""First byte and one past the last."""


def check_container(path: Path) -> None:
    """Raises BadInput unless ``path`` is one whole ONNX file with all its data inside."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            outside = _external_tensor(data)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); check the name.") from error
    except ValueError as error:
        raise BadInput(
            f"{path} is not a whole ONNX file ({error}); copy or export it again."
        ) from error
    if outside is not None:
        raise BadInput(
            f"{path} keeps the data of its tensor {outside!r} in another file, which is refused; "
            "store all weights inside the one file."
        )


def _external_tensor(data: mmap.mmap) -> str | None:
    """Name of a tensor whose data are elsewhere; ValueError for bytes that are no ONNX model."""
    graphs = 0
    stack = [("model", (0, len(data)))]
    while stack:
        kind, span = stack.pop()
        graphs += kind == "graph"
        if kind == "tensor":
            name = _external_name(data, span)
            if name is not None:
                return name
            continue
        for number, value in _fields(data, span):
            if number in _CHILDREN[kind] and isinstance(value, tuple):
                stack.append((_CHILDREN[kind][number], value))
    if not graphs:
        raise ValueError("it holds no graph")
    return None


def _external_name(data: mmap.mmap, span: _Span) -> str | None:
    fields = dict(_fields(data, span))
    if _EXTERNAL_DATA not in fields and not fields.get(_DATA_LOCATION):
        return None
    name = fields.get(_NAME)
    return data[slice(*name)].decode("utf-8", "replace") if isinstance(name, tuple) else ""


def _fields(data: mmap.mmap, span: _Span) -> Iterator[tuple[int, int | _Span]]:
    """(field number, value) of one message: an integer, or the span of a length-delimited value."""
    at, end = span
    while at < end:
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        value: int | _Span
        if wire == _VARINT:
            value, at = _varint(data, at, end)
        elif wire == _LENGTH:
            length, at = _varint(data, at, end)
            value = (at, at + length)
            at += length
        elif wire in _FIXED:
            value = 0
            at += _FIXED[wire]
        else:
            raise ValueError(f"byte {at} starts no field")
        if at > end or not number:
            raise ValueError(f"it is cut short or damaged near byte {min(at, end)}")
        yield number, value


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """The integer at ``at``, seven bits a byte, least significant first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"it is cut short or damaged near byte {at}")
