"""TorchScript in PyTorch on all CPU cores."""

from __future__ import annotations

from odedeploy.targets.records import Target

TARGET = Target(
    name="torchscript",
    format="torchscript",
    runtime="torchscript",
    providers=(),
    threads=None,
    batch=1,
    precision="fp32",
    description="TorchScript in PyTorch on all CPU cores",
    packages=("torch",),
    extra="export",
)
