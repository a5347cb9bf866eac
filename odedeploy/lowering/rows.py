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
    given, rows = [], []
    axis = _integers(outer, "odedeploy.row_axis", [0])
    for value in list(graph.inputs):
        if value.shape and _is(value.shape[0], symbol):
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
        else:
            given.append(value)
    return _scanned(model, outer, symbol, given, rows, axis)


def _scanned(
    model: ir.Model, outer: ir.Graph, symbol: str, given: list[ir.Value], rows: list[ir.Value],
    axis: ir.Value,
) -> ir.Model:
    graph = model.graph
    axes, results, declared = [], [], list(graph.outputs)
    for output in declared:
        place = [i for i, a in enumerate(output.shape or ()) if _is(a, symbol)]
        axes.append(place[0] if place else 0)
        if not place:
            results.append(output)
            continue
        position = _integers(outer, f"odedeploy.row_axis{place[0]}", [place[0]])
        node = ir.node("Squeeze", [output, position], name=f"{output.name}.row/Squeeze")
        node.outputs[0].name, node.outputs[0].type = f"{output.name}.row_out", output.type
        graph.append(node)
        results.append(node.outputs[0])
    kept = {value.name: value for value in given}
    wholes = [kept[v.name] for v in graph.inputs if v.name in kept and kept[v.name] is not v]
    del graph.inputs[:]
    del graph.outputs[:]
    defaults = {}
    for name, value in list(graph.initializers.items()):
        own = ir.Value(
            name=name, type=value.type, shape=value.shape, const_value=value.const_value
        )
        value.replace_all_uses_with(own, replace_graph_outputs=True)
        del graph.initializers[name]
        outer.register_initializer(own)
        defaults[value] = own
    given = [defaults.get(value, value) for value in given]
    graph.inputs.extend(rows)
    graph.outputs.extend(results)
    graph.opset_imports.clear()
    names = [output.name for output in declared]
    for output in declared:
        output.name = f"{output.name}.inside"
    graph.name = "row"
    scan = ir.Node(
        "",
        "Scan",
        wholes,
        [
            ir.AttrGraph("body", graph),
            ir.AttrInt64("num_scan_inputs", len(wholes)),
            ir.AttrInt64s("scan_output_axes", axes),
        ],
        num_outputs=len(declared),
        name="rows/Scan",
    )
    for output, called, old, at in zip(scan.outputs, names, declared, axes, strict=True):
        shape = list(old.shape or ())
        if not any(_is(a, symbol) for a in shape):
            shape.insert(at, ir.SymbolicDim(symbol))
        output.name, output.type, output.shape = called, old.type, ir.Shape(shape)
        old.shape = None
    outer.append(scan)
    outer.inputs.extend(given)
    outer.outputs.extend(scan.outputs)
    return ir.Model(outer, ir_version=model.ir_version)


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
