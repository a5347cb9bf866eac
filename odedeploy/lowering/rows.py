"""A model run on one input at a time, inside one graph.

With step-size control every input gets its own steps, and no answer depends on its batch mates.
"""

from __future__ import annotations

import onnx_ir as ir

from odedeploy.errors import BadInput
from odedeploy.graph import SOLVE_DOMAIN


def per_sample(model: ir.Model) -> ir.Model:
    """``model``, already lowered, as a Scan over the rows of its batch; 0-d outputs get a batch.

    Inputs without the batch axis are read whole by every row, and inputs with defaults stay.
    Raises BadInput for a model without a batch axis and for one that still holds solves.
    """
    graph = model.graph
    if any(node.domain == SOLVE_DOMAIN for node in graph):
        raise BadInput("Solves must be written out before a model is run row by row.")
    leading = (value.shape[0] for value in graph.inputs if value.shape)
    symbol = next((axis.value for axis in leading if isinstance(axis, ir.SymbolicDim)), None)
    if symbol is None:
        raise BadInput("The model has no batch axis, so there are no rows to run one by one.")
    outer = ir.Graph([], [], nodes=[], opset_imports=dict(graph.opset_imports), name=graph.name)
    given, rows = _rows(graph, outer, symbol)
    wholes = [whole for whole in given if whole not in graph.inputs]
    declared = list(graph.outputs)
    results = [_row(output, graph, outer, symbol) for output in declared]
    defaults = _lifted(graph, outer)
    graph.inputs.clear()
    graph.outputs.clear()
    graph.inputs.extend(rows)
    graph.outputs.extend(results)
    graph.opset_imports.clear()
    graph.name = "row"
    outer.append(_scan(graph, wholes, declared, symbol))
    outer.inputs.extend(defaults.get(value, value) for value in given)
    outer.outputs.extend(outer[-1].outputs)
    return ir.Model(outer, ir_version=model.ir_version)


def _rows(graph: ir.Graph, outer: ir.Graph, symbol: str) -> tuple[list[ir.Value], list[ir.Value]]:
    """The inputs of the outer graph, and those of the body, each read as a batch of one."""
    given, rows = [], []
    axis = _integers(outer, "odedeploy.row_axis", [0])
    for value in graph.inputs:
        if not (value.shape and _is(value.shape[0], symbol)):
            given.append(value)
            continue
        whole = ir.Value(name=value.name, type=value.type, shape=value.shape)
        row = ir.Value(name=f"{value.name}.row", type=value.type)
        row.shape = ir.Shape(value.shape[1:])
        node = ir.node("Unsqueeze", [row, axis], name=f"{value.name}.row/Unsqueeze")
        single = node.outputs[0]
        single.name, single.type = f"{value.name}.single", value.type
        single.shape = ir.Shape([1, *value.shape[1:]])
        value.replace_all_uses_with(single, replace_graph_outputs=True)
        graph.insert_before(graph[0], node)
        given.append(whole)
        rows.append(row)
    return given, rows


def _row(output: ir.Value, graph: ir.Graph, outer: ir.Graph, symbol: str) -> ir.Value:
    """What the body returns for ``output``: its only row, where it has the batch axis."""
    axis = _batch_axis(output, symbol)
    if axis is None:
        return output
    position = _integers(outer, f"odedeploy.row_axis{axis}", [axis])
    node = ir.node("Squeeze", [output, position], name=f"{output.name}.row/Squeeze")
    node.outputs[0].name, node.outputs[0].type = f"{output.name}.row_out", output.type
    graph.append(node)
    return node.outputs[0]


def _lifted(graph: ir.Graph, outer: ir.Graph) -> dict[ir.Value, ir.Value]:
    """Move the initializers out of the body; the value that stands for each."""
    moved = {}
    for name, value in list(graph.initializers.items()):
        own = ir.Value(name=name, type=value.type, shape=value.shape, const_value=value.const_value)
        value.replace_all_uses_with(own, replace_graph_outputs=True)
        del graph.initializers[name]
        outer.register_initializer(own)
        moved[value] = own
    return moved


def _scan(body: ir.Graph, wholes: list[ir.Value], declared: list[ir.Value], symbol: str) -> ir.Node:
    """The Scan of ``body``, whose outputs take the place and the names of ``declared``."""
    axes = [_batch_axis(output, symbol) or 0 for output in declared]
    names = [output.name for output in declared]
    for output in declared:
        output.name = f"{output.name}.inside"
    attributes = [
        ir.AttrGraph("body", body),
        ir.AttrInt64("num_scan_inputs", len(wholes)),
        ir.AttrInt64s("scan_output_axes", axes),
    ]
    scan = ir.Node("", "Scan", wholes, attributes, num_outputs=len(axes), name="rows/Scan")
    for output, name, old, at in zip(scan.outputs, names, declared, axes, strict=True):
        shape = list(old.shape or ())
        if _batch_axis(old, symbol) is None:
            shape.insert(at, ir.SymbolicDim(symbol))
        output.name, output.type, output.shape = name, old.type, ir.Shape(shape)
        old.shape = None
    return scan


def _batch_axis(value: ir.Value, symbol: str) -> int | None:
    axes = enumerate(value.shape or ())
    return next((place for place, size in axes if _is(size, symbol)), None)


def _is(axis: object, symbol: str) -> bool:
    return isinstance(axis, ir.SymbolicDim) and axis.value == symbol


def _integers(graph: ir.Graph, name: str, numbers: list[int]) -> ir.Value:
    if name not in graph.initializers:
        tensor = ir.tensor(numbers, dtype=ir.DataType.INT64, name=name)
        value = ir.Value(
            name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([len(numbers)]),
            const_value=tensor,
        )  # fmt: skip
        graph.register_initializer(value)
    return graph.initializers[name]
