"""ONNX files in a browser, as WebAssembly on one thread."""

from __future__ import annotations

from odedeploy.targets.records import Target

TARGET = Target(
    name="wasm",
    format="onnx",
    runtime="wasm",
    providers=(),
    threads=1,
    batch=1,
    precision="fp32",
    description="onnxruntime-web's WebAssembly in Chromium, on one thread",
    options={"engine": "wasm"},
    variant="wasm",
)
