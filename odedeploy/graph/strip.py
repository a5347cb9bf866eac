"""Forgets where and by what a model was made."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass


def strip(model: ir.Model) -> bool:
    """Remove metadata, documentation, file references and the producer from a model, in place.

    Names, shapes, types and the values of weights stay. Returns whether there was anything.
    """
    found = bool(ClearMetadataAndDocStringPass()(model).modified)
    functions = model.functions.values()
    bodies = [*model.graphs()]
    for function in functions:
        bodies += [function.graph, *function.subgraphs()]
    holders: list[ir.Model | ir.Function | ir.Graph | ir.Value] = [model, *functions, *bodies]
    holders += [value for body in bodies for value in _values(body)]
    for holder in holders:
        found |= bool(holder.metadata_props or holder.doc_string)
        holder.metadata_props.clear()
        holder.doc_string = None
    for body in bodies:
        found |= _strip_tensors(body)
    found |= any((model.producer_name, model.producer_version, model.domain, model.model_version))
    model.producer_name = model.producer_version = model.domain = None
    model.model_version = None
    return found


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _strip_tensors(graph: ir.Graph) -> bool:
    found = False
    for value in graph.initializers.values():
        if value.const_value is not None and _marked(value.const_value):
            value.const_value = _plain(value.const_value)
            found = True
    for node in graph:
        for name, attribute in node.attributes.items():
            tensor = attribute.value if attribute.type == ir.AttributeType.TENSOR else None
            if attribute.doc_string or (tensor is not None and _marked(tensor)):
                content = attribute.value if tensor is None else _plain(tensor)
                node.attributes[name] = ir.Attr(name, attribute.type, content)
                found = True
    return found


def _marked(tensor: ir.TensorProtocol) -> bool:
    return bool(tensor.doc_string or tensor.metadata_props or isinstance(tensor, ir.ExternalTensor))


def _plain(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
