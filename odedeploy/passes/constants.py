"""Constants are initializers, each stored once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import (
    DeduplicateHashedInitializersPass,
    LiftConstantsToInitializersPass,
)

LIMIT = 2**62
"""Elements of the largest tensor that is compared."""


def run(model: ir.Model) -> bool:
    """Turn Constant nodes into initializers; keep one of those with equal dtype, shape and bytes.

    Leaves values and the model's signature as they are.
    """
    lift = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
    lifted = lift(model).modified
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            value.const_value = _contiguous(value.const_value)
    return bool(DeduplicateHashedInitializersPass(LIMIT)(model).modified) or bool(lifted)


def _contiguous(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Hashing reads memory as it lies, and refuses a transposed view."""
    array = tensor.numpy()
    if array.flags.c_contiguous:
        return tensor
    return ir.tensor(np.ascontiguousarray(array), dtype=tensor.dtype, name=tensor.name)
