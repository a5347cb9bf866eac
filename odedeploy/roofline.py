"""What a plan would cost on devices that are not here: estimates by the roofline model, marked so.

An operator takes at least the time of its arithmetic at the device's peak, and, where weights and
the largest results do not fit its cache, at least the time of moving what it reads and writes
(S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for
multicore architectures", CACM 52(4), 2009). Overheads of a runtime are left out, so an estimate is
a lower bound and far below what small fields take; ``this_machine`` measures how far here.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx


HERE = "this machine"

SMALL = 1024
"""Numbers of a weight whose values shapes may depend on."""


@dataclass(frozen=True)
class Device:
    """One core of a processor (or a whole GPU) in float32: peak operations a second, bytes a second
    from its memory, bytes of its last cache; ``source`` says where the numbers are from."""

    name: str
    operations: float
    bandwidth: float
    cache: float
    source: str


DEVICES = (
    Device("Raspberry Pi 4, one core", 12.0e9, 12.8e9, 1.0e6,
           "Cortex-A72 at 1.5 GHz, 8 float32 operations a cycle; LPDDR4-3200, 32 bits; 1 MB L2"),
    Device("Raspberry Pi 5, one core", 38.4e9, 17.1e9, 2.0e6,
           "Cortex-A76 at 2.4 GHz, 16 operations a cycle; LPDDR4X-4267, 32 bits; 2 MB L3"),
    Device("Jetson Orin Nano 8 GB, GPU", 1.28e12, 68.0e9, 2.0e6,
           "1024 cores at 625 MHz, 2 operations a cycle; LPDDR5, 128 bits; 2 MB L2"),
    Device("phone, one Cortex-A78", 38.4e9, 25.6e9, 4.0e6,
           "Cortex-A78 at 2.4 GHz, 16 operations a cycle; LPDDR5-6400, 32 bits; 4 MB L3"),
    Device("Cortex-M7 at 480 MHz", 0.96e9, 1.92e9, 128e3,
           "one fused multiply-add a cycle; 64-bit bus at 240 MHz; 128 KB of coupled memory"),
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What one inference of one input does: (operations, bytes) of every operator with the number
    of such operators, bytes of weights, and bytes of the largest operator's arrays."""

    operators: tuple[tuple[int, int, int], ...]
    weights: int
    largest: int

    @property
    def operations(self) -> int:
        """Floating-point operations, a multiplication and an addition counting as two."""
        return sum(ops * count for ops, _, count in self.operators)

    @property
    def bytes(self) -> int:
        """Bytes that the operators read and write, weights at every use."""
        return sum(size * count for _, size, count in self.operators)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Work:
        operators = tuple((int(a), int(b), int(c)) for a, b, c in data["operators"])
        return cls(operators, int(data["weights"]), int(data["largest"]))


def work_of(model: onnx.ModelProto) -> Work | None:
    """The work of an unrolled ONNX model for one input; None when a shape in it is not known."""
    import onnx

    sized = _with_one_input(model)
    shapes = _shapes(onnx.shape_inference.infer_shapes(sized, data_prop=True).graph)
    found: Counter[tuple[int, int]] = Counter()
    largest = 0
    for node in sized.graph.node:
        if node.op_type in _FREE:
            continue
        values = [name for name in (*node.input, *node.output) if name]
        if any(name not in shapes for name in values):
            return None
        sizes = [math.prod(shapes[name]) for name in values]
        out = sum(math.prod(shapes[name]) for name in node.output if name)
        moved = 4 * sum(sizes)
        found[_operations(node, shapes, out), moved] += 1
        largest = max(largest, moved)
    weights = sum(4 * math.prod(each.dims) for each in model.graph.initializer)
    operators = tuple((ops, size, count) for (ops, size), count in sorted(found.items()))
    return Work(operators, weights, largest)


def estimate(work: Work, device: Device) -> float:
    """Seconds of one inference, a lower bound."""
    fits = work.weights + work.largest <= device.cache
    return sum(
        count * max(ops / device.operations, 0.0 if fits else size / device.bandwidth)
        for ops, size, count in work.operators
    )


def estimates(work: Work) -> dict[str, float]:
    """Milliseconds on every device of ``DEVICES`` and on this machine, by name."""
    return {each.name: 1e3 * estimate(work, each) for each in (*DEVICES, this_machine())}


@cache
def this_machine() -> Device:
    """One core of this machine, measured once, in a process of its own: NumPy's threads are
    settled when it is loaded."""
    names = ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM")
    alone = {f"{name}_NUM_THREADS": "1" for name in names}
    paths = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "odedeploy.roofline"], capture_output=True, check=True,
        env={**os.environ, **alone, "PYTHONPATH": paths}, encoding="utf-8",
    )  # fmt: skip
    return Device(**json.loads(done.stdout))


def measure(seconds: float = 0.3) -> Device:
    """This machine by the best of NumPy's matrix products and copies in ``seconds``, on as many
    threads as NumPy has."""
    side, many = 384, 2**23
    a = np.full((side, side), 1e-3, np.float32)
    source, target = np.ones(many, np.float32), np.zeros(many, np.float32)
    product = _best(lambda: a @ a, seconds / 2)
    copy = _best(lambda: np.copyto(target, source), seconds / 2)
    return Device(HERE, 2 * side**3 / product, 2 * source.nbytes / copy, _cache(),
                  "measured by matrix products and copies")  # fmt: skip


_FREE = ("Constant", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Shape")
"""Operators that move nothing."""


def _operations(node: Any, shapes: Mapping[str, tuple[int, ...]], out: int) -> int:
    if node.op_type in ("MatMul", "Gemm"):
        first = shapes[node.input[0]]
        flipped = any(a.name == "transA" and a.i for a in node.attribute)
        return 2 * out * first[-2 if flipped else -1]
    if node.op_type == "Conv":
        return 2 * out * math.prod(shapes[node.input[1]][1:])
    if node.op_type in ("Concat", "Slice", "Gather", "Transpose", "Expand", "Split", "Pad", "Cast"):
        return 0
    read = max((math.prod(shapes[name]) for name in node.input if name), default=0)
    return max(out, read)


def _with_one_input(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every dynamic axis of its inputs of length one, and without the shapes that it
    held. Large weights become inputs, which have a shape and no data."""
    from onnx import ModelProto, helper

    sized = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    sized.graph.name = model.graph.name
    sized.graph.node.extend(model.graph.node)
    sized.graph.input.extend(model.graph.input)
    for value in sized.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            if not axis.HasField("dim_value"):
                axis.dim_value = 1
    for value in model.graph.output:
        element = value.type.tensor_type.elem_type
        sized.graph.output.append(helper.make_tensor_value_info(value.name, element, None))
    for each in model.graph.initializer:
        if math.prod(each.dims) <= SMALL:
            sized.graph.initializer.append(each)
        else:
            info = helper.make_tensor_value_info(each.name, each.data_type, each.dims)
            sized.graph.input.append(info)
    return sized


def _shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    found = {each.name: tuple(each.dims) for each in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            axes = value.type.tensor_type.shape.dim
            if all(axis.HasField("dim_value") for axis in axes):
                found[value.name] = tuple(axis.dim_value for axis in axes)
    for node in graph.node:
        if node.op_type == "Constant":
            found.setdefault(node.output[0], ())
    return found


def _best(run: Any, seconds: float) -> float:
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return best


def _cache() -> float:
    """Bytes of the last cache, as Linux tells them, else a million."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        if text[:-1].isdigit():
            sizes.append(int(text[:-1]) * {"K": 1024, "M": 1024**2}.get(text[-1], 1))
    return float(max(sizes, default=10**6))


if __name__ == "__main__":
    print(json.dumps(asdict(measure())))
