"""onnxruntime on an NVIDIA GPU, the whole inference captured as one CUDA graph."""

from __future__ import annotations

from odedeploy.targets.records import Target

TARGET = Target(
    name="cuda-graph",
    format="onnx",
    runtime="onnxruntime",
    providers=("CUDAExecutionProvider",),
    threads=1,
    batch=1,
    precision="fp32",
    description="onnxruntime on an NVIDIA GPU, captured as a CUDA graph",
    options={
        "device": "cuda",
        "provider_options": {
            "CUDAExecutionProvider": {"use_tf32": "0", "enable_cuda_graph": "1"},
        },
    },
    extra="gpu",
    variant="cuda",
)
