"""Small ONNX models, written as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHT = np.array([[0.0, 1.0], [-1.0, 0.5], [0.25, 2.0]], dtype=np.float32)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, np.ndarray] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    proto = helper.make_model(
        helper.make_graph(nodes, "model", inputs, outputs, tensors),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    helper.set_model_props(proto, dict(metadata or {}))
    return proto


def linear(
    metadata: Mapping[str, str] | None = None, batch: int | str = "batch"
) -> onnx.ModelProto:
    """image (batch, 3) → logits (batch, 2) = image @ WEIGHT."""
    return model(
        [helper.make_node("MatMul", ["image", "weight"], ["logits"])],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 2])],
        {"weight": WEIGHT},
        metadata,
    )


def pair() -> onnx.ModelProto:
    """x (batch, 2), label (batch,) int64 → file = x + label, size = 2·label."""
    return model(
        [
            helper.make_node("Cast", ["label"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Constant", [], ["one"], value_ints=[1]),
            helper.make_node("Unsqueeze", ["real", "one"], ["column"]),
            helper.make_node("Add", ["x", "column"], ["file"]),
            helper.make_node("Add", ["label", "label"], ["size"]),
        ],
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("file", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("size", TensorProto.INT64, ["batch"]),
        ],
    )


def save(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path
