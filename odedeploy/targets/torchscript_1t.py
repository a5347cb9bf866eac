"""TorchScript in PyTorch on one CPU thread."""

from __future__ import annotations

from odedeploy.targets.records import Target

TARGET = Target(
    name="torchscript-1t",
    format="torchscript",
    runtime="torchscript",
    providers=(),
    threads=1,
    batch=1,
    precision="fp32",
    description="TorchScript in PyTorch on one CPU thread",
    packages=("torch",),
    extra="export",
)
