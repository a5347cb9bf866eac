"""ONNX files in node, on one CPU thread."""

from __future__ import annotations

from odedeploy.targets.records import Target

TARGET = Target(
    name="node",
    format="onnx",
    runtime="node",
    providers=(),
    threads=1,
    batch=1,
    precision="fp32",
    description="onnxruntime-node on one CPU thread",
    options={"engine": "node"},
    variant="node",
)
