"""Constants are initializers, each stored once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

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
    with _quiet():
        return bool(DeduplicateHashedInitializersPass(LIMIT)(model).modified) or bool(lifted)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a notice for every input that has a default value, which is no constant."""
    logger = logging.getLogger("onnx_ir.passes.common.initializer_deduplication")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _contiguous(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Hashing reads memory as it lies, and refuses a transposed view."""
    array = tensor.numpy()
    if array.flags.c_contiguous:
        return tensor
    return ir.tensor(np.ascontiguousarray(array), dtype=tensor.dtype, name=tensor.name)
