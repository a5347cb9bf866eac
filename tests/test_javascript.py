"""ONNX files in the JavaScript builds of onnxruntime, where node and npm's packages are here."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from odegraphs import GRAPHS
from onnx import helper
from onnxfiles import WEIGHT, linear, model, pair, save
from patterns import PATTERNS

from odedeploy import api, formats, lowering, targets
from odedeploy.errors import BadInput, Crashed, FellShort, OdeDeployError, UnknownName, Unusable
from odedeploy.frontends.loading import Loaded
from odedeploy.grid import Grid
from odedeploy.javascript import installation
from odedeploy.javascript.host import Host, host
from odedeploy.javascript.model import JavaScriptModel, open_in
from odedeploy.javascript.tensors import pack, unpack
from odedeploy.lowering import lower
from odedeploy.manifest import ErrorReport
from odedeploy.profiling import Entry, openers, profile
from odedeploy.profiling.process import Worker
from odedeploy.profiling.usage import Usage
from odedeploy.program import Control, Plan, solve_plan
from odedeploy.runtime import GOLDEN, Golden, load
from odedeploy.solvers import SOLVERS
from odedeploy.spec import ExportSpec

TYPES = (
    "float32", "float64", "float16", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool",
)  # fmt: skip

STARTING = ["node", pytest.param("wasm", marks=pytest.mark.slow)]
"""Engines of tests that start one of their own; a browser takes seconds."""


@pytest.fixture(params=installation.ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The name of an engine; the test is skipped where something of it is missing."""
    name: str = request.param
    if reason := installation.missing(installation.find(name)):
        pytest.skip(reason)
    return name


def golden(answers: np.ndarray) -> dict[str, str]:
    """Metadata by which an image of ones gives ``answers``."""
    images = np.ones((2, 3), np.float32)
    return {GOLDEN: Golden({"image": images}, {"logits": answers}, 1e-5).pack()}


def right() -> np.ndarray:
    return np.ones((2, 3), np.float32) @ WEIGHT


def lowered(name: str, form: str, path: Path) -> Path:
    """The graph of that name as a file."""
    graph = GRAPHS[name](np.float32).graph
    plan = Plan(tuple(
        solve_plan(site.name, SOLVERS["rk4"], Grid.through(site.times, 4)) for site in graph.sites
    ))  # fmt: skip
    if form == "adaptive":
        plan = Plan((), control=Control(1e-3))
    path.write_bytes(onnx_bytes(lower(graph, plan, form)))
    return path


def onnx_bytes(lowered: object) -> bytes:
    import onnx_ir as ir

    data: bytes = ir.to_proto(lowered).SerializeToString()
    return data


@pytest.mark.parametrize("form", lowering.FORMS)
@pytest.mark.parametrize("name", GRAPHS)
def test_the_answers_are_those_of_onnxruntime(
    engine: str, form: str, name: str, tmp_path: Path
) -> None:
    path = lowered(name, form, tmp_path / "m.onnx")
    known, found = load(path, threads=1), open_in(engine, path, 1, {})
    assert (found.inputs, found.outputs) == (known.inputs, known.outputs)
    for rows in (1, 3):
        inputs = GRAPHS[name](np.float32).inputs(rows)
        answers, expected = found.run(inputs), known.run(inputs)
        for output, array in expected.items():
            assert answers[output].dtype == array.dtype
            np.testing.assert_allclose(answers[output], array, rtol=1e-5, atol=1e-6)


def test_every_type_goes_there_and_back(engine: str, tmp_path: Path) -> None:
    """Among them 64-bit integers that no number of JavaScript holds, a scalar, and an array whose
    rows are not contiguous."""
    kinds = [(name, helper.np_dtype_to_tensor_dtype(np.dtype(name))) for name in TYPES]
    values = [
        (side, [helper.make_tensor_value_info(f"{side}.{n}", k, ["a", "b"]) for n, k in kinds])
        for side in ("in", "out")
    ]
    nodes = [helper.make_node("Identity", [f"in.{n}"], [f"out.{n}"]) for n in TYPES]
    nodes.append(helper.make_node("Identity", ["one"], ["same"]))
    for (_, infos), name in zip(values, ("one", "same"), strict=True):
        infos.append(helper.make_tensor_value_info(name, onnx.TensorProto.INT64, []))
    path = save(model(nodes, *(infos for _, infos in values)), tmp_path / "types.onnx")
    random = np.random.default_rng(0)
    inputs = {f"in.{n}": random.integers(0, 2, (3, 2)).astype(n).T for n in TYPES}
    inputs["in.int64"][0, 0], inputs["in.uint64"][0, 0] = -(2**53) - 1, 2**64 - 1
    inputs["in.float64"][0, 0] = 1 + 2**-52
    found = open_in(engine, path, 1, {}).run({**inputs, "one": np.array(7)})
    for name in TYPES:
        array = found[f"out.{name}"]
        assert array.dtype == name and np.array_equal(array, inputs[f"in.{name}"])
        array[0, 0] = 0
    assert found["same"].shape == () and found["same"] == 7


@pytest.mark.parametrize("shape", [(), (0, 2), (2, 1, 3)])
def test_arrays_as_json(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int), dtype=">f4").reshape(shape)
    again = unpack(pack(array))
    assert again.shape == shape and np.array_equal(again, array)


@pytest.mark.parametrize(("form", "option"), [("loop", "steps"), ("adaptive", "rtol")])
def test_an_input_with_a_default_keeps_it(
    engine: str, form: str, option: str, tmp_path: Path
) -> None:
    path = lowered("linear", form, tmp_path / "m.onnx")
    found, inputs = open_in(engine, path, 1, {}), GRAPHS["linear"](np.float32).inputs(2)
    assert found.run(inputs) and option in found.limits["defaults"]
    with pytest.raises(BadInput, match=f"no inputs that have a default.*'{option}'.*'cpu'"):
        found.run({**inputs, option: 8})


def test_what_cannot_be_opened_is_refused(engine: str, tmp_path: Path) -> None:
    path = save(linear(), tmp_path / "m.onnx")
    known, most = load(path), installation.find(engine).most_threads
    with pytest.raises(BadInput, match="no setting 'spinning'"):
        open_in(engine, path, 1, {"spinning": False})
    if most is not None:
        with pytest.raises(BadInput, match=f"on {most} thread, got {most + 1}"):
            open_in(engine, path, most + 1, {})
    else:
        assert open_in(engine, path, 2, {})(np.ones((1, 3), np.float32)).shape == (1, 2)
    path.unlink()
    with pytest.raises(BadInput, match="cannot be read"):
        open_in(engine, path, 1, {})
    with pytest.raises(BadInput, match="not a model that onnxruntime-.* can load"):
        JavaScriptModel(host(installation.find(engine)), known, 1)


def test_it_times_itself(engine: str, tmp_path: Path) -> None:
    """Its latencies fit into the time that the question took, and queries go on in turn."""
    path = save(linear(), tmp_path / "m.onnx")
    found = open_in(engine, path, 1, {})
    assert isinstance(found, openers.Timer)
    queries = [{"image": np.full((1, 3), k, np.float32)} for k in range(3)]
    for turn in range(4):
        (_,), (logits,) = found.timed(queries, 0.0, 1)
        np.testing.assert_allclose(logits, queries[turn % 3]["image"] @ WEIGHT, rtol=1e-6)
    usage = Usage(found.process)
    before, began = usage.cpu_ns(), time.perf_counter_ns()
    ns, _ = found.timed(queries, 30.0, 5)
    taken, cpu = time.perf_counter_ns() - began, usage.cpu_ns() - before
    assert len(ns) >= 5 and sum(ns) < taken
    assert 0 < cpu and (usage.peak_mb() or 0) >= (usage.resident_mb() or 0) > 10


def test_a_worker_measures_the_process_of_the_engine(engine: str, tmp_path: Path) -> None:
    path = save(linear(golden(right())), tmp_path / "m.onnx")
    np.savez(tmp_path / "q.npz", **{"0 image": np.ones((1, 3), np.float32)})
    with Worker() as worker:
        opened = worker.ask(
            "open", 120, runtime=engine, path=str(path), format="onnx", threads=1,
            options={"engine": engine}, queries=str(tmp_path / "q.npz"),
        )  # fmt: skip
        warm = worker.ask("warm", 60, runs=10, ms=1, window_ms=1, cap_ms=3000)
        round = worker.ask("round", 60, ms=10, lead_ms=0)
    assert opened["golden_error"] <= 1e-5 and opened["load_ms"] > 0 and opened["base_mb"] > 10
    assert opened["options"]["engine"] == engine
    assert warm["runs"] >= installation.find(engine).settling or not warm["stable"]
    assert round["cpu_ns"] > 0 and round["peak_mb"] > opened["base_mb"]
    assert 0 < np.median(round["ns"]) < 10e6


@pytest.mark.parametrize("engine", STARTING, indirect=True)
def test_wrong_answers_cost_a_row(engine: str, tmp_path: Path) -> None:
    path = save(linear(golden(right() + 1)), tmp_path / "m.onnx")
    error = ErrorReport(0.01, 0.02, 0.001, 0.99, 0.95, 299)
    entry = Entry(
        path, "m", targets.find(engine), 0.1, "onnx", "unrolled", "fp32", "rk4", 12, error,
        [{"image": np.ones((1, 3), np.float32)}],
    )  # fmt: skip
    (row,) = profile([entry], (), 0.1).rows
    assert row.status == "failed" and "the answers are wrong" in row.reason


@pytest.mark.parametrize("engine", STARTING, indirect=True)
def test_an_engine_that_dies_is_started_again(engine: str, tmp_path: Path) -> None:
    chosen, path = installation.find(engine), save(linear(), tmp_path / "m.onnx")
    image = np.ones((1, 3), np.float32)
    before = open_in(engine, path, 1, {})
    assert before.process is not None
    os.kill(before.process, signal.SIGKILL)
    with pytest.raises(Crashed, match=f"{chosen.packages[0]}|SIGKILL"):
        before(image)
    after = open_in(engine, path, 1, {})
    assert after.process != before.process
    np.testing.assert_allclose(after(image), image @ WEIGHT, rtol=1e-6)


@pytest.mark.parametrize("engine", STARTING, indirect=True)
def test_nothing_outlives_the_program(engine: str, tmp_path: Path) -> None:
    """Whether it ends by itself or is killed."""
    path = save(linear(), tmp_path / "m.onnx")
    code = (
        "import sys, time; from odedeploy.javascript.model import open_in\n"
        "model = open_in(sys.argv[1], sys.argv[2], 1, {}); print(model.process, flush=True)\n"
        "time.sleep(float(sys.argv[3]))"
    )
    for seconds in (0, 600):
        program = subprocess.Popen(
            [sys.executable, "-c", code, engine, str(path), str(seconds)], stdout=subprocess.PIPE,
            text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        assert program.stdout is not None
        process = Path("/proc") / program.stdout.readline().strip()
        if seconds:
            program.kill()
        program.wait(60)
        program.stdout.close()
        deadline = time.monotonic() + 30
        while process.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not process.exists()


def test_the_page_is_served_to_those_who_know_its_address_alone(tmp_path: Path) -> None:
    from urllib.error import HTTPError
    from urllib.request import urlopen

    chosen = installation.find("wasm")
    if reason := installation.missing(chosen):
        pytest.skip(reason)
    open_in("wasm", save(linear(), tmp_path / "m.onnx"), 1, {})
    node = host(chosen)._child._process.pid
    sockets = {
        re.search(r"\d+", link)[0]  # type: ignore[index]
        for link in (os.readlink(fd) for fd in Path(f"/proc/{node}/fd").iterdir())
        if link.startswith("socket")
    }
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ports = [line[1] for line in lines if line[9] in sockets and line[3] == "0A"]
    assert ports and all(port.startswith("0100007F") for port in ports)
    for path in ("", "page.html", "0.onnx", "../../etc/passwd"):
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"http://127.0.0.1:{int(ports[0].partition(':')[2], 16)}/{path}", timeout=10)


@pytest.mark.parametrize("engine", STARTING, indirect=True)
def test_an_export_for_an_engine_is_verified_in_it(engine: str, tmp_path: Path) -> None:
    model, tensors = PATTERNS["adjoint"]()
    rows = {name: np.repeat(t.numpy(), 4, axis=0) for name, t in tensors.items()}
    loaded = Loaded("model", model, rows, frozenset(), "model", None)
    spec = ExportSpec(tol=0.2, target=engine, solver="euler", confidence=0.5, coverage=0.5,
                      form="loop")  # fmt: skip
    manifest = api.deploy(loaded, spec, tmp_path / "m.onnx")
    assert manifest.target == engine and manifest.error.bound is not None
    assert manifest.extra["limits"] == {"defaults": ["steps"]}
    assert len(manifest.extra["steps"]["errors"]) == 1
    assert api.verify(tmp_path / "m.onnx").passed
    target = targets.find(engine)
    found = formats.find("onnx").open(tmp_path / "m.onnx", target.threads, target.opening)
    assert isinstance(found, JavaScriptModel) and found.alarm is None


def test_several_inputs_and_outputs_go_by_name(engine: str, tmp_path: Path) -> None:
    found = open_in(engine, save(pair(), tmp_path / "m.onnx"), 1, {})
    inputs = {"label": np.array([1, 2]), "x": np.ones((2, 2), np.float32)}
    answers = found.run(inputs)
    assert answers["size"].tolist() == [2, 4] and answers["file"].tolist() == [[2, 2], [3, 3]]
    with pytest.raises(BadInput, match="'label' is missing"):
        found.run({"x": inputs["x"]})


@pytest.mark.parametrize("name", installation.ENGINES)
def test_what_is_missing_is_told(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chosen = installation.find(name)
    monkeypatch.setenv(installation.FOLDER, str(tmp_path))
    monkeypatch.setattr(installation.shutil, "which", lambda program: f"/bin/{program}")
    reason = targets.usable(targets.find(name))
    assert f"npm install --ignore-scripts {' '.join(chosen.packages)}" in str(reason)
    assert str(tmp_path) in str(reason)
    with pytest.raises(Unusable, match="npm install"):
        Host(chosen)
    for package in chosen.packages:
        (tmp_path / package).mkdir()
        (tmp_path / package / "package.json").write_text('{"version": "1.2.3"}')
    assert targets.usable(targets.find(name)) is None
    monkeypatch.setattr(
        installation.shutil, "which", lambda program: "/bin/node" if program == "node" else None
    )
    reason = targets.usable(targets.find(name))
    assert reason is None if not chosen.browser else "install Chromium" in str(reason)
    monkeypatch.setattr(installation.shutil, "which", lambda program: None)
    assert "install Node.js" in str(targets.usable(targets.find(name)))


def test_a_broken_package_does_not_start(
    engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for package in installation.find(engine).packages:
        (tmp_path / package).mkdir()
        (tmp_path / package / "package.json").write_text('{"version": "1.2.3", "main": "no.js"}')
    monkeypatch.setenv(installation.FOLDER, str(tmp_path))
    with pytest.raises(Unusable, match=f"engine '{engine}' does not start.*install it again"):
        Host(installation.find(engine))


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="no engine 'nod'.*did you mean 'node'"):
        formats.find("onnx").open(tmp_path / "m.onnx", 1, {"engine": "nod"})


def test_golden_outputs_are_checked_by_every_opener_that_says_so(tmp_path: Path) -> None:
    known = load(save(linear(golden(right())), tmp_path / "right.onnx"))
    assert openers.golden_facts(known)["golden_error"] == 0
    wrong = load(save(linear(golden(right() + 1)), tmp_path / "wrong.onnx"))
    with pytest.raises(FellShort, match="the answers are wrong"):
        openers.golden_facts(wrong)
    with pytest.raises(OdeDeployError, match="no golden inputs"):
        openers.golden_facts(load(save(linear(), tmp_path / "bare.onnx")))
