from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from odegraphs import GRAPHS, convolution, run
from test_passes import plan_of

from odedeploy.errors import BadInput
from odedeploy.graph import OdeGraph
from odedeploy.graph.serial import pack, unpack
from odedeploy.graph.strip import strip
from odedeploy.lowering import lower
from odedeploy.passes import clean

FACTORIES = {
    **{n: (lambda f=f: f(np.float32).graph) for n, f in GRAPHS.items()},
    "conv": convolution,
}


def arrays(model: ir.Model) -> dict[str, np.ndarray]:
    return {k: v.const_value.numpy() for k, v in model.graph.initializers.items()}


def described(graph: OdeGraph) -> tuple[Any, ...]:
    """Everything that a graph says, but where it was captured."""
    model = graph.model.clone()
    strip(model)
    inputs = {
        key: [(v.name, v.dtype, v.shape) for v in function.inputs]
        for key, function in model.functions.items()
    }
    sites = [replace(site, location="") for site in graph.sites]
    return ir.to_proto(model).SerializeToString(deterministic=True), inputs, sites


@pytest.fixture(params=FACTORIES)
def graph(request: pytest.FixtureRequest) -> OdeGraph:
    return FACTORIES[request.param]()


def test_the_round_trip_is_exact(graph: OdeGraph) -> None:
    artefact = clean(lower(graph, plan_of()))
    back = unpack(pack(graph, artefact.graph.initializers), arrays(artefact))
    assert described(back) == described(graph)
    again = clean(lower(back, plan_of("dopri5", 3)))
    wanted = clean(lower(graph, plan_of("dopri5", 3)))
    assert ir.to_proto(again) == ir.to_proto(wanted)


def test_nothing_present_means_that_everything_travels(graph: OdeGraph) -> None:
    assert described(unpack(pack(graph, {}), {})) == described(graph)


def test_the_graph_is_left_untouched(graph: OdeGraph) -> None:
    before = ir.to_proto(graph.model).SerializeToString(deterministic=True)
    pack(graph, graph.model.graph.initializers)
    assert ir.to_proto(graph.model).SerializeToString(deterministic=True) == before


def test_weights_that_the_artefact_holds_do_not_travel_under_any_name() -> None:
    graph = convolution(channels=24)
    artefact = clean(lower(graph, plan_of()))
    weight = artefact.graph.initializers["conv.weight"]
    weight.name = "renamed"
    text = pack(graph, artefact.graph.initializers)
    assert len(text) < 4000 < len(pack(graph, {}))
    assert described(unpack(text, arrays(artefact))) == described(graph)


def test_a_weight_that_the_artefact_holds_changed_travels() -> None:
    graph = convolution()
    artefact = clean(lower(graph, plan_of()))
    weight = artefact.graph.initializers["conv.weight"]
    weight.const_value = ir.tensor(2 * weight.const_value.numpy(), name="conv.weight")
    back = unpack(pack(graph, artefact.graph.initializers), arrays(artefact))
    assert described(back) == described(graph)


def test_a_kept_plan_travels() -> None:
    graph = convolution()
    site = replace(graph.sites[0], kept=plan_of("rk4_38").solves[0], method="rk4")
    back = unpack(pack(OdeGraph(graph.model, (site,)), {}), {})
    assert back.sites == (replace(site, location=""),) and back.evaluator is None


def test_the_text_says_nothing_of_the_place_of_capture() -> None:
    graph = convolution()
    for node in graph.model.graph:
        node.metadata_props["pkg.torch.onnx.stack_trace"] = "/home/somebody/model.py"
    data = json.loads(pack(graph, {}))
    body = zlib.decompress(base64.b64decode(data["model"]))
    assert graph.sites[0].location and "/home" not in json.dumps(data) and b"/home" not in body


def test_what_was_unpacked_runs() -> None:
    example = GRAPHS["pair"](np.float64)
    artefact = clean(lower(example.graph, plan_of()))
    back = unpack(pack(example.graph, artefact.graph.initializers), arrays(artefact))
    inputs = example.inputs(3)
    for a, b in zip(run(artefact, inputs), run(clean(lower(back, plan_of())), inputs), strict=True):
        assert np.array_equal(a, b)


def test_a_graph_that_traces_its_plans_stays_out_of_files() -> None:
    graph = convolution()
    with pytest.raises(BadInput, match="traced from the PyTorch model"):
        pack(replace(graph, trace=lambda plan: graph.model), {})


def texts() -> dict[str, str]:
    text = pack(convolution(), {})
    data = json.loads(text)

    def changed(**fields: Any) -> str:
        return json.dumps({**data, **fields})

    squeezed = base64.b64encode(zlib.compress(b"not a model")).decode()
    return {
        "empty": "",
        "not JSON": "odedeploy",
        "a number": "3",
        "a list": "[]",
        "nothing in it": "{}",
        "cut": text[: len(text) // 2],
        "another format": changed(format="odedeploy.graph/99"),
        "cut model": changed(model=data["model"][: len(data["model"]) // 8 * 4]),
        "not base64": changed(model="***"),
        "not a model": changed(model=squeezed),
        "no sites": changed(sites=None),
        "a site without a name": changed(sites=[{"field": "field0"}]),
        "unknown tensor": changed(tensors={"nobody": ["x", 1]}),
        "malformed tensor": changed(tensors={"conv.bias": 3}),
        "no fields": changed(fields={}),
        "a field with other inputs": changed(fields={"field0": []}),
        "a dtype that does not exist": changed(fields={"field0": [[999, None]] * 5}),
    }


@pytest.mark.parametrize("name", texts())
def test_a_text_that_pack_did_not_write(name: str) -> None:
    with pytest.raises(BadInput, match="not the text of an ODE graph"):
        unpack(texts()[name], {})


def test_tensors_that_are_missing_or_changed() -> None:
    graph = convolution()
    artefact = clean(lower(graph, plan_of()))
    text, held = pack(graph, artefact.graph.initializers), arrays(artefact)
    with pytest.raises(BadInput, match="'conv.weight' of the ODE graph is not in the file"):
        unpack(text, {k: v for k, v in held.items() if k != "conv.weight"})
    for wrong in (held["conv.weight"] + 1, held["conv.weight"][:1], held["conv.weight"].T):
        with pytest.raises(BadInput, match="'conv.weight' in the file is not the one"):
            unpack(text, {**held, "conv.weight": wrong})
    with pytest.raises(BadInput, match="'conv.weight' in the file is not the one"):
        unpack(text, {**held, "conv.weight": held["conv.weight"].astype(np.float64)})
