"""TensorRT through onnxruntime, on an NVIDIA GPU; what it cannot run falls to CUDA, never further.

Arithmetic is float32, since reduced precision belongs to the file.
"""

from __future__ import annotations

from odedeploy.targets.records import Target

TARGET = Target(
    name="tensorrt",
    format="onnx",
    runtime="onnxruntime",
    providers=("TensorrtExecutionProvider", "CUDAExecutionProvider"),
    threads=1,
    batch=1,
    precision="fp32",
    description="TensorRT in onnxruntime on an NVIDIA GPU",
    options={
        "device": "cuda",
        "provider_options": {"CUDAExecutionProvider": {"use_tf32": "0"}},
    },
    extra="gpu",
    variant="tensorrt",
)
