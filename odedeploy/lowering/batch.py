"""A lowered model for one batch size: every shape known, none computed."""

from __future__ import annotations

import onnx_ir as ir

from odedeploy.errors import BadInput
from odedeploy.graph import batch_symbol


def fixed(model: ir.Model, size: int) -> ir.Model:
    """``model`` itself with its batch axis fixed to ``size``.

    Raises BadInput for a model without a batch axis.
    """
    symbol = batch_symbol(model.graph)
    if symbol is None:
        raise BadInput("The model has no batch axis to fix; leave out --batch.")
    for graph in model.graphs():
        values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
        for value in values:
            if value.shape is not None:
                value.shape = ir.Shape([size if _is(a, symbol) else a for a in value.shape])
    return model


def _is(axis: int | ir.SymbolicDim, symbol: str) -> bool:
    return isinstance(axis, ir.SymbolicDim) and axis.value == symbol
