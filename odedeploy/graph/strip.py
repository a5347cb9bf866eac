"""Forgets where and by what a model was made."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass


def strip(model: ir.Model) -> bool:
    """Remove metadata, documentation strings and the producer from a model, in place.

    Names, shapes, types, attributes and weights stay. Returns whether there was anything.
    """
    holders = [model, *model.graphs(), *model.functions.values(), *_values(model)]
    holders += [v.const_value for v in _values(model) if isinstance(v.const_value, _TENSORS)]
    found = bool(ClearMetadataAndDocStringPass()(model).modified)
    for holder in holders:
        found |= bool(holder.metadata_props or holder.doc_string)
        holder.metadata_props.clear()
        holder.doc_string = None
    found |= any((model.producer_name, model.producer_version, model.domain, model.model_version))
    model.producer_name = model.producer_version = model.domain = None
    model.model_version = None
    return found


_TENSORS = (ir.Tensor, ir.TensorBase)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in (*model.graphs(), *(function.graph for function in model.functions.values())):
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs
