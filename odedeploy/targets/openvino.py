"""OpenVINO on all CPU cores."""

from __future__ import annotations

from odedeploy.targets.records import Target

TARGET = Target(
    name="openvino",
    format="openvino",
    runtime="openvino",
    providers=(),
    threads=None,
    batch=1,
    precision="fp32",
    description="OpenVINO on all CPU cores",
    packages=("openvino",),
    extra="openvino",
)
