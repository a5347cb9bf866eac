"""OpenVINO on one CPU thread."""

from __future__ import annotations

from odedeploy.targets.records import Target

TARGET = Target(
    name="openvino-1t",
    format="openvino",
    runtime="openvino",
    providers=(),
    threads=1,
    batch=1,
    precision="fp32",
    description="OpenVINO on one CPU thread",
    packages=("openvino",),
    extra="openvino",
)
