"""All cores of this machine's processor."""

from __future__ import annotations

from odedeploy.targets.records import Target

TARGET = Target(
    name="cpu",
    format="onnx",
    runtime="onnxruntime",
    providers=("CPUExecutionProvider",),
    threads=None,
    batch=1,
    precision="fp32",
    description="onnxruntime on all CPU cores",
)
