"""Evaluations with constants of their own: the record, and its meaning in every world."""

from __future__ import annotations

import json
import threading
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from odegraphs import A, B, linear, pair, run
from patterns import ASKED, PATTERNS
from torch import nn

from odedeploy import formats
from odedeploy.api import export
from odedeploy.api import plan as plan_of
from odedeploy.errors import BadInput
from odedeploy.frontends import capture, capture_field, live
from odedeploy.frontends.own_constants import own_fields
from odedeploy.graph import OdeGraph
from odedeploy.graph.serial import pack, unpack
from odedeploy.grid import Grid
from odedeploy.lowering import lower
from odedeploy.passes import clean
from odedeploy.program import Constants, Plan, SolvePlan, build, interpret, solve_plan
from odedeploy.reference import Reference, solve
from odedeploy.search.distilled import distil
from odedeploy.search.objective import judges
from odedeploy.search.splits import Fit, Validate
from odedeploy.search.study import OutOfTime
from odedeploy.solvers import SOLVERS, find
from odedeploy.spec import ExportSpec
from odedeploy.tolerance import Tolerance

arrays = hnp.arrays(
    st.sampled_from([np.float32, np.float64]),
    hnp.array_shapes(max_dims=2, max_side=4),
    elements=st.floats(-100, 100, width=32),
)
constants = st.builds(Constants, st.dictionaries(st.text(max_size=8), arrays, max_size=3))
EULER = build(find("euler"), Grid.uniform(0.0, 1.0, 2))


def own(plan: Plan, graph: OdeGraph, strength: float = 0.3, seed: int = 0) -> Plan:
    """``plan`` with random biases: every evaluation of every solve its own."""
    rng = np.random.default_rng(seed)
    trained = dict(live(graph).model.named_parameters())

    def moved(name: str) -> np.ndarray:
        bias = trained[name].detach().numpy()
        return (bias + strength * rng.standard_normal(bias.shape)).astype(np.float32)

    def solved(solve: SolvePlan) -> SolvePlan:
        names = graph.site(solve.site).constants
        sets = [Constants({n: moved(n) for n in names}) for _ in range(solve.program.evaluations)]
        return SolvePlan(solve.site, "distilled", solve.grid, solve.program, tuple(sets))

    return Plan(tuple(map(solved, plan.solves)))


@cache
def captured(name: str) -> tuple[OdeGraph, dict[str, np.ndarray]]:
    model, tensors = PATTERNS[name]()
    inputs = {key: tensor.numpy() for key, tensor in tensors.items()}
    asked = ASKED[name]
    return capture(model, inputs, asked.static, replan=True, noise=asked.noise), inputs


def classical(graph: OdeGraph, solver: str, steps: int = 2) -> Plan:
    return Plan(
        tuple(
            solve_plan(site.name, SOLVERS[solver], Grid.through(site.times, steps))
            for site in graph.sites
        )
    )


def close(found: Any, expected: Any, tolerance: float = Tolerance.FLOAT32) -> bool:
    return bool(np.abs(found - expected).max() <= 10 * tolerance * (1 + np.abs(expected).max()))


@settings(deadline=None)
@given(constants, st.data())
def test_constants_are_equal_by_value_and_survive_json(one: Constants, data: Any) -> None:
    again = Constants.from_json(json.loads(json.dumps(one.to_json())))
    assert again == one and hash(again) == hash(one) and repr(again) == repr(one)
    assert all(again[n].dtype == one[n].dtype and again[n].shape == one[n].shape for n in one)
    if one:
        name = data.draw(st.sampled_from(sorted(one)))
        other = Constants({**one, name: one[name] + 1})
        assert other != one and {one, other, again} == {one, other}
        with pytest.raises(ValueError, match="read-only"):
            one[name][...] = 0


def test_constants_are_a_copy() -> None:
    array = np.zeros(3, np.float32)
    held = Constants({"b": array})
    array[:] = 1
    assert not held["b"].any()


@pytest.mark.parametrize("bad", [np.ones(2, np.float16), np.ones(2, int), np.array([np.nan])])
def test_constants_that_no_field_can_read_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(BadInput, match="'b'"):
        Constants({"b": bad})


def test_a_plan_with_constants_survives_json_and_one_without_has_no_trace_of_them() -> None:
    sets = tuple(Constants({"b": np.full(3, i, np.float32)}) for i in range(2))
    grid = Grid.uniform(0.0, 1.0, 2)
    plain = Plan((SolvePlan("a", "euler", grid, EULER),))
    plan = Plan((SolvePlan("a", "distilled", grid, EULER, sets),))
    assert "constants" not in json.dumps(plain.to_json())
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan != plain and hash(again) == hash(plan)
    with pytest.raises(BadInput, match="1 evaluations and 2"):
        SolvePlan("a", "distilled", grid, EULER, sets[:1])


@pytest.mark.parametrize(
    "bad",
    [
        3,
        [3, 3],
        [{"b": 3}] * 2,
        [{"b": {"dtype": "int8", "shape": [1], "base64": "AA=="}}] * 2,
        [{"b": {"dtype": "float32", "shape": [2], "base64": "AAAAAA=="}}] * 2,
        [{"b": {"dtype": "float32", "shape": [1], "base64": "?"}}] * 2,
        [{}],
    ],
)
def test_other_json_is_refused(bad: Any) -> None:
    data = Plan((SolvePlan("a", "euler", Grid.uniform(0.0, 1.0, 2), EULER),)).to_json()
    data["solves"][0]["constants"] = bad
    with pytest.raises(BadInput):
        Plan.from_json(data)


@pytest.mark.parametrize("solver", ["euler", "rk4", "ab3_euler"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_lowered_file_is_the_numpy_definition(dtype: Any, solver: str) -> None:
    example, rng = linear(dtype), np.random.default_rng(1)
    plain = solve_plan("solve0", SOLVERS[solver], Grid.uniform(0.0, 1.0, 2))
    drifts = [rng.standard_normal(3).astype(dtype) for _ in plain.program.times]
    sets = tuple(Constants({"field.b": drift}) for drift in drifts)
    plan = Plan((SolvePlan("solve0", "distilled", plain.grid, plain.program, sets),))
    a, inputs = A.astype(dtype), example.inputs(5)
    fields = [lambda t, y, b=b: y @ a.T + b * t for b in drifts]
    expected = interpret(plan.solves[0].program, fields, inputs["x"])[-1]
    tolerance = Tolerance.FLOAT32 if dtype == np.float32 else Tolerance.ROUND_OFF
    for model in (lower(example.graph, plan), clean(lower(example.graph, plan))):
        assert close(run(model, inputs)[0], expected, tolerance)
    trained = Constants({"field.b": B.astype(dtype)})
    kept = SolvePlan("solve0", "x", plain.grid, plain.program, (trained,) * len(drifts))
    (same,) = run(lower(example.graph, Plan((kept,))), inputs)
    (before,) = run(lower(example.graph, Plan((plain,))), inputs)
    np.testing.assert_array_equal(same, before)


MODELS = (
    "adjoint", "same_field_in_a_loop", "tuple_state", "hamiltonian", "attention", "batch_norm",
    "convolution_with_norm_and_dropout", "time_expanded_and_embedded", "nonuniform_trajectory",
    "branch_on_time",
)  # fmt: skip
UNSCRIPTED = ("hamiltonian",)
"""Models that PyTorch does not put into TorchScript, whatever the plan."""


@pytest.mark.parametrize("name", MODELS)
def test_torch_onnx_and_torchscript_agree(name: str, tmp_path: Path) -> None:
    graph, inputs = captured(name)
    assert all(site.constants for site in graph.sites)
    for solver in ("rk4", "ab2_euler"):
        plan = own(classical(graph, solver), graph)
        expected, plain = (in_torch(graph, p, inputs) for p in (plan, classical(graph, solver)))
        assert not all(map(close, plain, expected))
        for form in map(formats.find, ("onnx", "torchscript")[: 1 if name in UNSCRIPTED else 2]):
            path = tmp_path / f"{solver}{form.suffix}"
            form.build(graph, plan, "unrolled").write(path, {})
            found = form.open(path, threads=1).run(inputs)
            assert all(map(close, found.values(), expected)), form.name


def in_torch(graph: OdeGraph, plan: Plan, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    tensors = [torch.from_numpy(array) for array in inputs.values()]
    return [output.numpy() for output in live(graph).module(plan).eval()(*tensors)]


def optimised(model: ir.Model, path: Path) -> Counter[str]:
    """Operators that onnxruntime runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(ir.to_proto(model).SerializeToString(), options,
                         providers=["CPUExecutionProvider"])  # fmt: skip
    return Counter(node.op_type for node in ir.load(path).graph)


@pytest.mark.parametrize("solver", ["ab2_euler", "rk4"])
@pytest.mark.parametrize(
    "name", ["convolution_with_norm_and_dropout", "time_expanded_and_embedded", "hamiltonian"]
)
def test_no_operator_is_added_and_weights_are_stored_once(
    name: str, solver: str, tmp_path: Path
) -> None:
    graph, _ = captured(name)
    plan = classical(graph, solver)
    plain, distilled = (clean(lower(graph, p)) for p in (plan, own(plan, graph)))
    before, after = (optimised(m, tmp_path / "m.onnx") for m in (plain, distilled))
    assert before == after
    stored = Counter(v.shape.numpy() for v in distilled.graph.initializers.values())
    weights = [tuple(p.shape) for p in live(graph).model.parameters() if p.dim() > 2]
    assert all(stored[shape] <= weights.count(shape) for shape in weights)


def test_a_distilled_file_holds_the_trained_constants_for_another_plan() -> None:
    graph, inputs = captured("convolution_with_norm_and_dropout")
    plan = classical(graph, "rk4")
    distilled = clean(lower(graph, own(plan, graph)))
    held = distilled.graph.initializers
    text = pack(graph, held)
    read = unpack(text, {name: value.const_value.numpy() for name, value in held.items()})
    assert read.sites[0].constants == graph.sites[0].constants
    (found,), (expected,) = (run(clean(lower(g, plan)), inputs) for g in (read, graph))
    np.testing.assert_array_equal(found, expected)


def test_a_closure_over_a_module_and_a_parameter_has_its_constants() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
    bias = net[2].bias

    def field(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return net(x) - t * bias

    x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    graph = capture_field(field, x, 0.0, 1.0, {})
    assert len(graph.sites[0].constants) == 2
    plan = own(classical(graph, "rk4"), graph)
    (expected,) = live(graph).run(plan, {"x": x}, "float32").outputs.values()
    (found,) = run(clean(lower(graph, plan)), {"x": x})
    assert close(found, expected)


def test_another_thread_and_an_error_leave_the_trained_values() -> None:
    layer = nn.Linear(2, 2)
    x, zero = torch.ones(1, 2), torch.tensor(0.0)
    trained = layer(x).detach()
    seen: list[torch.Tensor] = []

    def field(t: torch.Tensor, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        other = threading.Thread(target=lambda: seen.append(layer(x).detach()))
        other.start()
        other.join()
        seen.append(layer(x).detach())
        raise RuntimeError("in the field")

    (own,) = own_fields(field, [{"bias": np.full(2, 9.0, np.float32)}], layer)
    with pytest.raises(RuntimeError, match="in the field"):
        own(zero, (x,))
    assert torch.equal(seen[0], trained) and not torch.equal(seen[1], trained)
    assert torch.equal(layer(x), trained)


def test_gradients_reach_every_evaluations_own_values() -> None:
    layer = nn.Linear(2, 2)
    values = [{"bias": torch.zeros(2, requires_grad=True)} for _ in range(2)]
    fields = own_fields(lambda t, y: (torch.tanh(layer(y[0])),), values, layer)
    y = (torch.ones(1, 2),)
    for field in fields:
        y = field(torch.tensor(0.0), y)
    y[0].sum().backward()
    assert all(v["bias"].grad is not None and v["bias"].grad.any() for v in values)
    assert layer.bias.grad is None


@pytest.mark.parametrize("name, size", [("nobody", 3), ("field.net.2.bias", 4)])
def test_constants_of_another_model_are_refused(name: str, size: int) -> None:
    graph, inputs = captured("adjoint")
    solve = classical(graph, "euler").solves[0]
    sets = (Constants({name: np.zeros(size, np.float32)}),) * 2
    plan = Plan((SolvePlan(solve.site, "distilled", solve.grid, solve.program, sets),))
    with pytest.raises(BadInput, match=name):
        live(graph).run(plan, inputs, "float32")
    with pytest.raises(BadInput, match=name):
        lower(graph, plan)


def test_states_of_several_tensors_take_one_field_an_evaluation() -> None:
    example = pair(np.float64)
    inputs = example.inputs(3)
    program = build(find("rk4"), Grid.uniform(0.0, 1.0, 1))
    field = example.field(inputs)
    one = interpret(program, field, example.initial(inputs))
    four = interpret(program, [field] * 4, example.initial(inputs))
    assert all((a == b).all() for a, b in zip(one[-1], four[-1], strict=True))


class Winding(nn.Module):
    """A field of one hidden layer that turns and bends with time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 24), nn.Linear(24, 2)

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        time = torch.ones_like(y[:, :1]) * t
        hidden = torch.tanh(2 * self.first(torch.cat([y, time], dim=1)))
        return 3 * self.second(hidden) + 2 * torch.stack([-y[:, 1], y[:, 0]], dim=1)


@pytest.fixture(scope="module")
def winding() -> tuple[OdeGraph, dict[str, np.ndarray]]:
    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((1024, 2)).astype(np.float32) + 2
    return capture_field(Winding(), x, 0.0, 1.0, {}), {"x": x}


def errors(graph: OdeGraph, plan: Plan, reference: Reference, rows: np.ndarray, x: Any) -> Any:
    return reference.errors(live(graph).run(plan, {"x": x[rows]}, "float32"), rows)


def test_distilling_lowers_the_error_of_inputs_it_has_not_seen(
    winding: tuple[OdeGraph, dict[str, np.ndarray]],
) -> None:
    graph, inputs = winding
    x, evaluator = inputs["x"], live(graph)
    reference = solve(evaluator, graph.sites, inputs, 1e-2)
    fit, validate, unseen = np.split(np.arange(1024), [512, 704])
    start = classical(graph, "ab2_euler", 3)
    with judges(
        evaluator, Fit(fit, {"x": x[fit]}), Validate(validate, {"x": x[validate]}), reference
    ) as judged:
        biases = distil(evaluator, graph.sites, start, judged, 80, coefficients=False)
        whole = distil(evaluator, graph.sites, start, judged, 80)
        stopped = distil(evaluator, graph.sites, start, judged, 80, spent=out_of_time)
        held = distil(evaluator, graph.sites, start, judged, 80, False, pull=1e6)
    assert stopped is start or stopped.solves[0].constants
    found = [
        float(np.quantile(errors(graph, plan, reference, unseen, x), 0.95))
        for plan in (start, biases, whole)
    ]
    assert found[1] < 0.5 * found[0] and found[2] < 0.5 * found[0]
    assert all(solve.solver == "distilled" for p in (biases, whole) for solve in p.solves)
    assert biases.solves[0].program == start.solves[0].program != whole.solves[0].program
    trained = dict(evaluator.model.named_parameters())
    own = [c for solve in held.solves for c in solve.constants]
    assert all(np.allclose(c[n], trained[n].detach(), atol=1e-2) for c in own for n in c)
    assert Plan.from_json(json.loads(json.dumps(whole.to_json()))) == whole
    (lowered,) = run(clean(lower(graph, whole)), {"x": x[unseen]})
    (expected,) = evaluator.run(whole, {"x": x[unseen]}, "float32").outputs.values()
    assert close(lowered, expected)


def out_of_time() -> None:
    raise OutOfTime


def test_a_search_distils_only_when_asked_and_certifies_what_it_found(
    winding: tuple[OdeGraph, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    graph, inputs = winding
    kinds = {}
    for asked in (
        {"solver": "distilled", "nfe": 3, "tol": 0.2},
        {"solver": "learned", "nfe": 3, "tol": 0.2},
    ):
        spec = ExportSpec(**asked)
        planned = plan_of(graph, inputs, spec=spec)
        kinds[spec.solver] = {c.kind for c in planned.search.candidates}
        constants = [bool(s.constants) for s in planned.search.plan.solves]
        assert constants == [spec.solver == "distilled"]
    assert kinds == {"distilled": {"distilled"}, "learned": {"learned"}}
    planned = plan_of(graph, inputs, spec=ExportSpec(tol=0.2, solver="distilled", nfe=3))
    manifest = export(graph, planned, tmp_path / "m.onnx")
    assert manifest.plan["solver"] == "distilled" and manifest.kept
    assert Plan.from_json(manifest.plan["program"]) == planned.search.plan


def test_a_field_without_biases_cannot_be_distilled() -> None:
    x = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
    graph = capture_field(lambda t, y: -y * t, x, 0.0, 1.0, {})
    with pytest.raises(BadInput, match="choose learned"):
        plan_of(graph, {"x": x}, spec=ExportSpec(tol=1e-2, solver="distilled"))
    assert not ExportSpec(tol=1e-2).distils
    assert ExportSpec(tol=1e-2, allow_distilled=True).distils
