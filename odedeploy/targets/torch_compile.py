"""Torch.compile of the exported program, on all CPU cores."""

from __future__ import annotations

from odedeploy.targets.records import Target

TARGET = Target(
    name="torch-compile",
    format="pt2",
    runtime="torch-compile",
    providers=(),
    threads=None,
    batch=1,
    precision="fp32",
    description="torch.compile of the exported program, on all CPU cores",
    options={"compile": True},
    packages=("torch",),
    extra="export",
    compiler=True,
    variant="compiled",
)
