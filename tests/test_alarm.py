"""The drift alarm, judged in the runtimes of the files that carry it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from every_format import NAMES, usable
from hypothesis import given, settings
from hypothesis import strategies as st
from pattern_base import Field, Model, rows, unit
from patterns import ASKED, PATTERNS
from torch import Tensor, nn
from torchdiffeq import odeint
from typer.testing import CliRunner

import odedeploy
from odedeploy import api
from odedeploy.cli import app
from odedeploy.errors import BadInput
from odedeploy.formats import find
from odedeploy.frontends import capture, intercept, live
from odedeploy.graph import OdeGraph, delivered_specs, input_specs
from odedeploy.grid import Grid
from odedeploy.lowering import FORMS, lower
from odedeploy.manifest import Manifest
from odedeploy.program import Alarm, Plan, Residual, solve_plan
from odedeploy.search.alarm import SLOPES, threshold_of, unused_name
from odedeploy.search.contrasts import contrasts
from odedeploy.solvers import SOLVERS
from odedeploy.spec import ExportSpec
from odedeploy.verification import verify

WATCHED = (
    "tuple_state", "three_tensors", "scalar_state", "augmented_image", "two_inputs",
    "batch_on_the_second_axis", "same_field_in_a_loop", "nonuniform_trajectory", "branch_on_time",
    "times_as_an_input",
)  # fmt: skip
"""Patterns whose files are built here: every shape of state, several solves, a traced field, times
that are an input."""

Case = tuple[nn.Module, dict[str, np.ndarray], OdeGraph, Plan]


@cache
def case(name: str) -> Case:
    """A captured pattern and a plan with an alarm of random coefficients."""
    model, tensors = PATTERNS[name]()
    inputs = {key: tensor.numpy() for key, tensor in tensors.items()}
    asked = ASKED[name]
    graph = capture(model, inputs, asked.static, noise=asked.noise)
    solves = tuple(
        site.kept or solve_plan(site.name, SOLVERS["midpoint"], Grid.through(site.times, 3))
        for site in graph.sites
    )
    generator = np.random.default_rng(5)
    residuals = []
    for solve, axes in zip(solves, live(graph).state_axes(), strict=True):
        slopes = tuple(range(solve.program.evaluations))[-SLOPES:]
        free = generator.standard_normal((2, len(slopes)))
        free -= free.mean(1, keepdims=True)
        scales = tuple(generator.uniform(0.5, 2, len(axes)).tolist())
        residuals.append(Residual(solve.site, slopes, tuple(map(tuple, free.tolist())), scales,
                                  axes))  # fmt: skip
    return model, inputs, graph, Plan(solves, Alarm("alarm", tuple(residuals)))


def defined(name: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The alarm by its definition in NumPy, on the slopes of the plan in PyTorch."""
    model, _, graph, plan = case(name)
    assert plan.alarm is not None
    slopes: dict[str, dict[int, tuple[Tensor, ...]]] = {}
    with torch.no_grad(), intercept(live(graph).handler(plan, slopes=slopes)):
        model(**{key: torch.from_numpy(array) for key, array in inputs.items()})
    total = sum(
        residual.squares({
            number: tuple(k.double().numpy() for k in derivatives)
            for number, derivatives in slopes[residual.site].items()
        })
        for residual in plan.alarm.residuals
    )  # fmt: skip
    return np.sqrt(total)


@pytest.mark.parametrize("format", NAMES)
@pytest.mark.parametrize("name", WATCHED)
def test_alarm_of_the_file_is_its_definition_and_leaves_the_rest(
    name: str, format: str, tmp_path: Path
) -> None:
    _, inputs, graph, plan = case(name)
    form, outputs = usable(format), []
    for each in (plan, replace(plan, alarm=None)):
        path = tmp_path / f"{each.alarm is None}{form.suffix}"
        form.build(graph, each, "unrolled").write(path, {})
        runner = form.open(path)
        outputs.append(runner.run(inputs))
        specs = delivered_specs(graph.model, each)
        assert [s.name for s in runner.outputs] == [s.name for s in specs]
    alarm = outputs[0].pop("alarm")
    assert alarm.dtype == np.float32 and alarm.shape == (8,)
    np.testing.assert_allclose(alarm, defined(name, inputs), rtol=2e-5)
    found = live(graph).run(plan, inputs, "float32").monitors["alarm"]
    np.testing.assert_allclose(found, alarm, rtol=2e-5)
    rounding = 0.0 if format == "onnx" else 1e-6  # a compiler may fuse other operators
    for key, array in outputs[1].items():
        np.testing.assert_allclose(outputs[0][key], array, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("name", WATCHED)
def test_alarm_of_an_input_ignores_its_batch_mates(name: str, tmp_path: Path) -> None:
    _, inputs, graph, plan = case(name)
    find("onnx").build(graph, plan, "unrolled").write(tmp_path / "m.onnx", {})
    model = odedeploy.load(tmp_path / "m.onnx")
    static = {key: inputs[key] for key in ASKED[name].static}
    alone = model.run({key: array[:1] for key, array in inputs.items()} | static)["alarm"]
    wild = {key: np.concatenate([a[:1], 30 * a[1:6]]) for key, a in inputs.items()} | static
    np.testing.assert_allclose(model.run(wild)["alarm"][:1], alone, rtol=1e-5)


def test_lowered_alarm_is_a_handful_of_nodes_whatever_the_evaluations() -> None:
    _, _, graph, plan = case("augmented_image")
    bare = replace(plan, alarm=None)
    added = [n.op_type for n in lower(graph, plan).graph]
    for node in lower(graph, bare).graph:
        added.remove(node.op_type)
    assert sorted(added) == sorted(
        ["Concat", "Reshape", "MatMul", "Reshape", "ReduceSumSquare", "Sqrt", "LessOrEqual",
         "Where"]
    )  # fmt: skip


def test_verification_knows_the_output_and_sees_a_wrong_one(tmp_path: Path) -> None:
    _, inputs, graph, plan = case("tuple_state")
    assert plan.alarm is not None
    outcome = live(graph).run(plan, inputs, "float32")
    failures = []
    for factor in (1.0, 1.5):
        spoilt = replace(plan, alarm=plan.alarm.scaled(factor))
        find("onnx").build(graph, spoilt, "unrolled").write(tmp_path / "m.onnx", {})
        failures.append(
            verify(
                odedeploy.load(tmp_path / "m.onnx"), inputs, outcome.outputs, outcome.outputs,
                expected_inputs=input_specs(graph.model),
                expected_outputs=delivered_specs(graph.model, plan), tol=1e-2,
                monitors=outcome.monitors,
            ).failures
        )  # fmt: skip
    assert failures[0] == ()
    assert len(failures[1]) == 1 and "'alarm' differs" in failures[1][0]


floats = st.floats(-1e3, 1e3)
residuals = st.integers(1, 4).flatmap(
    lambda m: st.builds(
        Residual,
        st.sampled_from(["solve0", "solve1"]),
        st.tuples(*[st.integers(0, 50)] * m),
        st.lists(st.tuples(*[floats] * m), max_size=3).map(tuple),
        st.just((1.0, 0.5)),
        st.sampled_from([(0, 1), (None, 0), (2, None)]),
    )
)


@given(st.lists(residuals, max_size=3))
@settings(max_examples=30)
def test_alarm_survives_json(parts: list[Residual]) -> None:
    plan = Plan((), Alarm("alarm", tuple(parts)))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert "alarm" not in Plan(()).to_json()


@pytest.mark.parametrize("damage", [{"output": "a"}, {"output": "a", "residuals": [{}]}, 3])
def test_damaged_alarm_is_refused(damage: object) -> None:
    with pytest.raises(BadInput, match="not a plan"):
        Plan.from_json({"solves": [], "alarm": damage})


def planted(
    inputs: int, dimension: int, seed: int, row: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Slopes of which one combination is the error; forms and log errors of every input."""
    generator = np.random.default_rng(seed)
    slopes = generator.standard_normal((inputs, 1, dimension)) + 0.3 * generator.standard_normal(
        (inputs, len(row), dimension)
    )
    slopes *= np.exp(generator.standard_normal((inputs, 1, 1)))
    error = np.linalg.norm(np.einsum("a,xad->xd", row, slopes), axis=1)
    return [slopes @ slopes.transpose(0, 2, 1)], np.log(error)


@pytest.mark.parametrize("row", [(1.0, -1.0), (0.2, -1.0, 0.8), (1.0, 0.0, -2.0, 1.0)])
def test_fit_finds_a_planted_combination(row: tuple[float, ...]) -> None:
    chosen = np.array(row)
    (e,) = contrasts(planted(200, 5, 0, chosen), planted(100, 5, 1, chosen), seed=0)
    assert np.abs(e.sum(1)).max() <= 1e-12 * np.abs(e).max()
    (forms,), logs = planted(300, 5, 2, chosen)
    told = 0.5 * np.log(np.einsum("ka,xab,kb->x", e, forms, e))
    assert np.corrcoef(told, logs)[0, 1] > 0.98
    assert abs(np.mean(told - logs)) < 0.1


@pytest.mark.parametrize("n", [40, 299, 800])
def test_bound_of_false_alarms_holds_in_19_of_20_draws(n: int) -> None:
    generator = np.random.default_rng(n)
    broken = []
    for _ in range(500):
        threshold, false = threshold_of(generator.uniform(size=n), 0.0, 0.95)
        broken.append(1 - threshold / (1 + 1e-3) > false.bound)
        assert false.samples == n and (n < 299 or false.bound <= 0.01)
    assert np.mean(broken) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 500)


class Spring(nn.Module):
    """A hardening spring: the larger the swing, the faster, and the coarser any fixed solve."""

    def field(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.cat([y[:, 1:], -y[:, :1] - y[:, :1] ** 3], 1)

    def forward(self, y: Tensor) -> Tensor:
        return odeint(self.field, y, torch.tensor([0.0, 1.5]))[-1]


def states(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (rows, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def spring(tmp_path_factory: pytest.TempPathFactory) -> tuple[OdeGraph, Path, Manifest]:
    graph = odedeploy.capture(Spring(), states(900, 0))
    spec = ExportSpec(tol=1e-2, solver="classical", alarm=True)
    planned = odedeploy.plan(graph, states(900, 0), spec=spec)
    path = tmp_path_factory.mktemp("spring") / "spring.onnx"
    return graph, path, odedeploy.export(graph, planned, path)


def test_manifest_tells_false_alarms_and_detection(spring: tuple[OdeGraph, Path, Manifest]) -> None:
    _, path, manifest = spring
    alarm = manifest.extra["alarm"]
    assert alarm["output"] == "alarm" == manifest.outputs[-1].name == odedeploy.load(path).alarm
    assert manifest.outputs[-1].shape == ("batch",)
    false = alarm["false_alarm"]
    assert false["samples"] == manifest.error.samples and false["rate"] <= false["bound"] <= 0.01
    assert alarm["threshold"] > 0 and alarm["spearman"] > 0.5
    found = {(d["kind"], d["size"]): d for d in alarm["detection"]}
    assert {kind for kind, _ in found} == {"scale", "shift", "noise"}
    assert found["scale", 3.0]["bad"] > 0.2 and found["scale", 3.0]["recall_of_bad"] > 0.6
    assert found["scale", 1.5]["rate"] < found["scale", 3.0]["rate"]
    assert json.loads(path.with_name("spring.onnx.json").read_text())["extra"]["alarm"] == alarm


def test_alarm_on_fresh_inputs_is_as_told(spring: tuple[OdeGraph, Path, Manifest]) -> None:
    _, path, manifest = spring
    model = odedeploy.load(path)
    assert model.alarm is not None
    alike, astray = (model.run({"y": k * states(3000, 1)})[model.alarm] for k in (1, 3))
    bound = manifest.extra["alarm"]["false_alarm"]["bound"]
    assert np.mean(alike > 1) <= bound + 3 * np.sqrt(bound / 3000)
    told = next(d for d in manifest.extra["alarm"]["detection"]
                if (d["kind"], d["size"]) == ("scale", 3.0))["rate"]  # fmt: skip
    assert abs(np.mean(astray > 1) - told) < 0.25


def test_solve_that_overflows_raises_the_alarm(spring: tuple[OdeGraph, Path, Manifest]) -> None:
    found = odedeploy.load(spring[1]).run({"y": np.full((2, 2), 1e30, np.float32)})
    assert not np.isfinite(found["output"]).all()
    assert np.isposinf(found["alarm"]).all()


def test_verify_and_inspect_know_the_alarm(
    spring: tuple[OdeGraph, Path, Manifest], tmp_path: Path
) -> None:
    from odedeploy.cli import summary
    from odedeploy.frontends.loading import Loaded

    _, path, manifest = spring
    assert odedeploy.verify(path).passed
    assert odedeploy.verify(path, Loaded("spring", Spring(), {"y": states(400, 2)})).passed
    assert api.inspect(path)["extra"]["alarm"] == manifest.extra["alarm"]
    shown = dict(summary.alarm(manifest))
    assert "at most" in shown["  false alarms"] and "at 3" in shown["  raised under scale"]
    model = onnx.load(path)
    rows = next(t for t in model.graph.initializer if t.name.endswith("residual_rows"))
    rows.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(rows), rows.name))
    onnx.save(model, tmp_path / "spoilt.onnx")
    assert not odedeploy.verify(tmp_path / "spoilt.onnx").passed


def test_command_line_with_few_inputs_says_what_the_threshold_is_worth(tmp_path: Path) -> None:
    model = f"{Path(__file__).with_name('user_model.py')}:few"
    asked = ["--tol", "1e-1", "--nfe", "4", "--alarm", "-o", str(tmp_path / "m.onnx"), "--json"]
    done = CliRunner().invoke(app, ["export", model, *asked])
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    false = made["extra"]["alarm"]["false_alarm"]
    assert false["samples"] == made["error"]["samples"] == 30 and false["rate"] == 0
    assert false["bound"] == pytest.approx(1 - 0.05 ** (1 / 30))
    assert "alarm" in made["seconds"]


def test_plan_with_one_evaluation_is_refused() -> None:
    model, inputs = PATTERNS["one_euler_step"]()
    rows = np.resize(inputs["y"].numpy(), (60, 3))
    graph = odedeploy.capture(model, rows)
    planned = odedeploy.plan(graph, rows, spec=ExportSpec(tol=1e-1, alarm=True))
    with pytest.raises(BadInput, match="two evaluations .* this plan makes 1 in 1 solve"):
        odedeploy.export(graph, planned, "never.onnx")
    assert not Path("never.onnx").exists()


def test_state_that_mixes_the_batch_is_refused_with_its_line() -> None:
    def forward(m: Model, y: Tensor) -> Tensor:
        wide = torch.cat([y, y])
        return odeint(m.net, wide, unit())[-1][: len(y)]

    graph = odedeploy.capture(Model(forward, net=Field()), rows())
    with pytest.raises(BadInput, match=r"test_alarm\.py:\d+: .* leave out --alarm"):
        live(graph).state_axes()


def test_form_without_fixed_evaluations_is_refused() -> None:
    _, _, graph, plan = case("tuple_state")
    with pytest.raises(BadInput, match="unrolled"):
        ExportSpec(tol=1e-2, alarm=True, form="loop")
    for form in FORMS:
        if form != "unrolled":
            with pytest.raises(BadInput, match="leave out --alarm"):
                lower(graph, plan, form)


def test_name_of_the_output_clashes_with_none() -> None:
    def forward(m: Model, y: Tensor) -> dict[str, Tensor]:
        found = odeint(m.net, y, unit())[-1]
        return {"alarm": found, "alarm_1": 2 * found}

    graph = odedeploy.capture(Model(forward, net=Field()), rows())
    assert unused_name(graph) == "alarm_2"
