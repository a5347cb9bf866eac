"""Nothing is computed twice."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass


def run(model: ir.Model) -> bool:
    """Keep one of several nodes with the same operator, attributes and inputs.

    Run after ``constants``, so that equal constants are one input. Leaves values bit for bit.
    """
    return bool(CommonSubexpressionEliminationPass()(model).modified)
