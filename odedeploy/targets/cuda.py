"""onnxruntime on an NVIDIA GPU, inputs and outputs held on it."""

from __future__ import annotations

from odedeploy.targets.records import Target

TARGET = Target(
    name="cuda",
    format="onnx",
    runtime="onnxruntime",
    providers=("CUDAExecutionProvider",),
    threads=1,
    batch=1,
    precision="fp32",
    description="onnxruntime on an NVIDIA GPU",
    options={
        "device": "cuda",
        "provider_options": {"CUDAExecutionProvider": {"use_tf32": "0"}},
    },
    extra="gpu",
    variant="cuda",
)
