"""Constants are initializers, each stored once."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import (
    DeduplicateHashedInitializersPass,
    DeduplicateInitializersPass,
    LiftConstantsToInitializersPass,
)

SMALL = 1024
"""Elements up to which tensors are compared by their bytes instead of by a hash."""


def run(model: ir.Model) -> bool:
    """Turn Constant nodes into initializers; keep one of those with equal dtype, shape and bytes.

    Leaves values and the model's signature as they are.
    """
    lift = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
    passes = (lift, DeduplicateInitializersPass(SMALL), DeduplicateHashedInitializersPass(2**62))
    return any([bool(each(model).modified) for each in passes])
