"""LiteRT with XNNPACK on one CPU thread."""

from __future__ import annotations

from odedeploy.targets.records import Target

TARGET = Target(
    name="litert",
    format="litert",
    runtime="litert",
    providers=(),
    threads=1,
    batch=1,
    precision="fp32",
    description="LiteRT with XNNPACK on one CPU thread",
    packages=("ai-edge-litert",),
    extra="litert",
)
