"""ExecuTorch with XNNPACK on one CPU thread."""

from __future__ import annotations

from odedeploy.targets.records import Target

TARGET = Target(
    name="executorch",
    format="executorch",
    runtime="executorch",
    providers=(),
    threads=1,
    batch=1,
    precision="fp32",
    description="ExecuTorch with XNNPACK on one CPU thread",
    packages=("executorch",),
    extra="executorch",
)
