"""Half of one core of this machine's processor, as in a small container or on a shared device."""

from __future__ import annotations

from odedeploy.targets.records import Target

TARGET = Target(
    name="cpu-half",
    format="onnx",
    runtime="onnxruntime",
    providers=("CPUExecutionProvider",),
    threads=1,
    batch=1,
    precision="fp32",
    description="onnxruntime on one CPU thread that may use half of a core",
    quota=0.5,
)
