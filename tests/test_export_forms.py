"""``export --form loop`` and ``adaptive`` from the command line, and the files they write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from odegraphs import GRAPHS
from typer.testing import CliRunner

import odedeploy
from odedeploy import metrics
from odedeploy.cli import app
from odedeploy.errors import BadInput
from odedeploy.graph import Outcome
from odedeploy.lowering import FORMS, lower
from odedeploy.program import Control, Plan
from odedeploy.reference import Reference
from odedeploy.spec import ExportSpec
from odedeploy.step_control import Trial, errors_of

HERE = Path(__file__).parent
TOL = 1e-2
ADAPTIVE = {False: (), True: ("--per-sample",)}


def call(*arguments: str | Path):
    """The command line, in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forms")
    shutil.copy(HERE / "user_model.py", folder / "mine.py")
    return folder


def export(folder: Path, name: str, *arguments: str):
    model = f"{folder / 'mine.py'}:build"
    return call("export", model, "-o", folder / name, "--samples", "60", "--json", *arguments)


@pytest.fixture(scope="module", params=ADAPTIVE, ids=["shared", "per_sample"])
def adaptive(request: pytest.FixtureRequest, folder: Path) -> tuple[Path, dict]:
    name = f"adaptive{request.param}.onnx"
    done = export(folder, name, "--tol", str(TOL), "--form", "adaptive", *ADAPTIVE[request.param])
    assert done.exit_code == 0, done.output
    return folder / name, json.loads(done.stdout)


def test_an_adaptive_file_is_certified_at_its_default_tolerance(adaptive) -> None:
    path, made = adaptive
    control = made["extra"]["control"]
    assert made["kept"] and made["error"]["bound"] <= TOL and made["error"]["samples"] == 30
    assert (made["form"], made["plan"]["kind"], made["plan"]["solver"]) == (
        "adaptive", "adaptive", "dopri5",
    )  # fmt: skip
    assert control["evaluations"]["mean"] <= control["evaluations"]["max"]
    assert control["tolerance"] in [each["tolerance"] for each in made["candidates"]]
    assert ("one by one" in made["promise"]) == (not control["per_sample"])
    names = [output["name"] for output in made["outputs"]]
    model = odedeploy.load(path)
    assert names == [spec.name for spec in model.outputs]
    assert names[-2:] == ["evaluations", "converged"]
    plan = Plan.from_json(made["plan"]["program"])
    assert plan.control == Control(
        control["tolerance"], control["max_evaluations"], "dopri5", control["per_sample"]
    )


def test_tolerance_and_budget_of_a_file_are_options_of_a_call(adaptive) -> None:
    path, made = adaptive
    model, rows = odedeploy.load(path), np.random.default_rng(0).normal(size=(5, 2))
    x = rows.astype(np.float32)
    default = made["extra"]["control"]["tolerance"]
    answer = model(x)
    for name, array in model(x, rtol=default, atol=default).items():
        assert np.array_equal(array, answer[name])
    tight = model(x, rtol=1e-6, atol=1e-6)
    assert np.all(tight["evaluations"] > answer["evaluations"])
    assert np.allclose(tight["output"], answer["output"], atol=10 * TOL)
    assert not np.any(model(x, max_evaluations=3)["converged"])
    with pytest.warns(UserWarning, match="certified"):
        model(x, rtol=2 * default)
    with pytest.raises(BadInput, match="'rtol' takes one positive"):
        model(x, rtol=0)


def test_commands_know_an_adaptive_file(adaptive, folder: Path) -> None:
    path, made = adaptive
    shown = call("inspect", path)
    assert shown.exit_code == 0 and "rtol = atol" in shown.stdout
    assert call("verify", path).exit_code == 0
    again = call("retarget", path, "--tol", "1e-3", "--form", "adaptive", "-o", folder / "r.onnx")
    assert again.exit_code == 0, again.output
    assert odedeploy.load(folder / "r.onnx").manifest.plan["kind"] == "adaptive"


def test_verify_against_a_model(adaptive, folder: Path) -> None:
    path, _ = adaptive
    for name, code in (("build", 0), ("other", 1)):
        done = call("verify", path, "--against", f"{folder / 'mine.py'}:{name}", "--json")
        assert done.exit_code == code, done.output
        assert json.loads(done.stdout)["passed"] == (code == 0)


def test_nothing_is_written_when_no_tolerance_keeps_it(folder: Path) -> None:
    done = export(folder, "never.onnx", "--tol", "1e-9", "--form", "adaptive")
    assert done.exit_code == 1
    assert "the best step-size control (dopri5, rtol = atol = 1e-06)" in done.stderr
    assert not list(folder.glob("never*"))


def test_a_loop_is_planned_with_solvers_that_it_can_hold(folder: Path) -> None:
    done = export(folder, "loop.onnx", "--tol", str(TOL), "--form", "loop")
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert made["form"] == "loop" and made["error"]["bound"] <= TOL
    assert {each["kind"] for each in made["candidates"]} == {"classical"}
    low, high = made["extra"]["steps"]["certified"]
    assert low <= made["extra"]["steps"]["default"] <= high
    model = odedeploy.load(folder / "loop.onnx")
    x = np.zeros((2, 2), np.float32)
    assert np.allclose(model(x), model(x, steps=high), atol=TOL)


@pytest.mark.parametrize(("form", "size"), [("unrolled", 4), ("loop", 1)])
def test_a_file_for_one_batch_size(folder: Path, form: str, size: int) -> None:
    path = folder / f"fixed-{form}.onnx"
    wishes = ("--tol", str(TOL), "--form", form, "--solver", "rk4", "--batch", str(size))
    done = export(folder, path.name, *wishes)
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert made["kept"] and made["extra"]["batch"] == size and made["error"]["samples"] == 30
    model = odedeploy.load(path)
    assert [spec.shape for spec in (*model.inputs, *model.outputs)] == [(size, 2)] * 2
    assert model.manifest is not None and model.manifest.inputs == model.inputs
    x = np.random.default_rng(0).normal(size=(size, 2)).astype(np.float32)
    assert np.asarray(model(x)).shape == (size, 2)
    with pytest.raises(BadInput, match=rf"the model takes \({size}, 2\)"):
        model(x[:1].repeat(size + 1, 0))
    graph = onnx.load(path).graph
    assert all(node.op_type not in ("Shape", "Size") for node in graph.node)
    assert call("verify", path).exit_code == 0
    assert call("verify", path, "--against", f"{folder / 'mine.py'}:build").exit_code == 0
    inputs = folder / "inputs.npy"
    np.save(inputs, np.random.default_rng(1).normal(size=(60, 2)).astype(np.float32))
    again = folder / f"any-{form}.onnx"
    done = call("retarget", path, "--tol", "1e-1", "-o", again, "--inputs", inputs)
    assert done.exit_code == 0, done.output
    assert odedeploy.load(again).inputs[0].shape == ("batch", 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--per-sample",), "add --form adaptive"),
        (("--batch", "0"), "--batch is a positive number"),
        (("--batch", "4", "--form", "adaptive"), "--batch is a positive number"),
        (("--batch", "4", "--format", "torchscript"), "--batch is a positive number"),
        (("--batch", "4", "--precision", "int8"), "--batch is a positive number"),
        (("--form", "adaptive", "--nfe", "8"), "chooses as it runs"),
        (("--form", "adaptive", "--metric", "state"), "does not give"),
        (("--form", "adaptive", "--alarm"), "--alarm"),
        (("--form", "adaptive", "--solver", "learned"), "take --solver classical"),
        (("--form", "adaptive", "--precision", "int8"), "ask for fp32"),
        (("--form", "loop", "--solver", "distilled"), "take --solver classical"),
        (("--form", "loop", "--precision", "fp16"), "ask for fp32"),
        (("--form", "loop", "--format", "torchscript"), "cannot hold the form 'loop'"),
        (("--form", "rolled"), "no form 'rolled'"),
    ],
)
def test_what_a_form_cannot_have_is_one_sentence(
    folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = export(folder, "bad.onnx", "--tol", str(TOL), *arguments)
    said = " ".join(done.stderr.split())
    assert done.exit_code == 2 and words in said and "Traceback" not in said, said
    assert not list(folder.glob("bad*"))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "unrolled"])
def test_a_form_without_a_free_solve_is_refused(form: str) -> None:
    from dataclasses import replace

    from odedeploy.grid import Grid
    from odedeploy.program import solve_plan
    from odedeploy.solvers import find

    graph = GRAPHS["linear"](np.float32).graph
    kept = solve_plan("solve0", find("rk4"), Grid.uniform(0.0, 1.0, 4))
    fixed = replace(graph, sites=tuple(replace(site, kept=kept) for site in graph.sites))
    with pytest.raises(BadInput, match=f"free to take the form '{form}'"):
        lower(fixed, Plan((kept,)), form)


def test_the_adaptive_form_needs_control() -> None:
    with pytest.raises(BadInput, match="needs a plan with step-size control"):
        lower(GRAPHS["linear"](np.float32).graph, Plan(()), "adaptive")


def test_an_input_without_convergence_has_an_infinite_error() -> None:
    answer = np.ones((3, 2))
    reference = Reference(
        Outcome({"y": answer}, {}), 0.0, "dopri5", 1, metrics.of(ExportSpec(tol=TOL))
    )
    tried = [
        Trial({"y": answer * 1.01}, np.full(3, 8), np.array([True, False, True])),
        Trial({"y": answer}, np.full(3, 8), np.array([True, True, True])),
    ]
    assert np.allclose(errors_of(tried, reference, np.arange(3)), [0.01, np.inf, 0.01])
