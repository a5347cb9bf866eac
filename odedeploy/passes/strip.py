"""The file says nothing of the machine, the paths and the tools it was made with."""

from __future__ import annotations

import onnx_ir as ir

from odedeploy.graph.strip import strip


def run(model: ir.Model) -> bool:
    """Remove metadata, documentation strings and the producer; values stay bit for bit."""
    return strip(model)
