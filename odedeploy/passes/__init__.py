"""Clean-up of lowered models. Every pass is a file with ``run(model) -> modified``, in place."""

from __future__ import annotations

import onnx_ir as ir

from odedeploy.passes import (
    constants,
    dead,
    fold_time,
    noop,
    offsets,
    scales,
    shapes,
    spread,
    strip,
    subexpressions,
    trajectory,
)

PASSES = (
    constants,
    trajectory,
    dead,
    shapes,
    constants,
    noop,
    subexpressions,
    fold_time,
    dead,
    shapes,
    offsets,
    scales,
    spread,
    subexpressions,
    dead,
    shapes,
    strip,
)
"""In this order: a trajectory must be taken apart before what it kept alive can go, shapes must be
known before what does nothing can be seen, and time be folded before it shows which constants are
left to be moved."""


def clean(model: ir.Model) -> ir.Model:
    """``model`` itself, after every pass: the same function, without what it does not need."""
    for each in PASSES:
        each.run(model)
    return model
