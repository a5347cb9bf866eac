"""One core of this machine's processor, as on a shared or low-power device."""

from __future__ import annotations

from odedeploy.targets.records import Target

TARGET = Target(
    name="cpu-1t",
    format="onnx",
    runtime="onnxruntime",
    providers=("CPUExecutionProvider",),
    threads=1,
    batch=1,
    precision="fp32",
    description="onnxruntime on one CPU thread",
)
