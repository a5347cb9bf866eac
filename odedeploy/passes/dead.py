"""Nothing is left that no output needs."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import (
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
    TopologicalSortPass,
)


def run(model: ir.Model) -> bool:
    """Remove unused nodes, initializers, functions and opset imports; sort what stays.

    Leaves inputs, outputs and their values as they are.
    """
    passes = (
        RemoveUnusedNodesPass(),
        RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        RemoveUnusedOpsetsPass(),
        TopologicalSortPass(),
    )
    return any([bool(each(model).modified) for each in passes])
