from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from profiles import row as a_row

from odedeploy import targets
from odedeploy.errors import BadInput, Crashed, UnknownName
from odedeploy.manifest import ErrorReport
from odedeploy.profiling import (
    Baseline,
    Entry,
    Profile,
    Query,
    Row,
    machine,
    openers,
    pareto,
    profile,
    rows,
    stats,
)
from odedeploy.profiling.process import Worker
from odedeploy.targets import Target

CPU, SINGLE = targets.find("cpu"), targets.find("cpu-1t")
ERROR = ErrorReport(0.01, 0.02, 0.001, 0.99, 0.95, 299)
QUERIES = [{"x": np.full((1, 64), 1.0 + k, np.float32)} for k in range(3)]


def onnx_file(path: Path, operator: str, layers: int = 1) -> Path:
    """x → operator(x) ``layers`` times, MatMul by a matrix of ones / 64."""
    weight = onnx.numpy_helper.from_array(np.full((64, 64), 1 / 64, np.float32), "w")
    inputs = ["w"] if operator == "MatMul" else []
    nodes = [
        helper.make_node(operator, [f"v{i}" if i else "x", *inputs], [f"v{i + 1}"])
        for i in range(layers)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info(f"v{layers}", TensorProto.FLOAT, ["batch", 64])],
        [weight] if inputs else [],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def entry(file: Path, target: Target = SINGLE, queries: list[Query] | None = None) -> Entry:
    return Entry(
        file=file,
        model="m",
        target=target,
        tol=0.1,
        format="onnx",
        form="unrolled",
        precision="fp32",
        solver="rk4",
        nfe=12,
        error=ERROR,
        queries=queries or QUERIES,
    )


def planted(opener: str, **change: object) -> Target:
    return replace(SINGLE, name=opener, runtime=f"hostile:{opener}", **change)


# Percentiles and their bounds


@pytest.mark.parametrize(("p", "least"), [(0.5, 7), (0.9, 44), (0.99, 459), (0.999, 4603)])
def test_fewest_samples_are_those_of_mlperf(p: float, least: int) -> None:
    assert stats.needed(p) == least
    samples = np.arange(float(least))
    assert stats.percentile(samples[1:], p) is None
    assert stats.upper_bound(samples[1:], p) is None
    assert stats.percentile(samples, p) is not None
    assert stats.upper_bound(samples, p) == least - 1


def exact_rank(n: int, p: Fraction) -> int:
    """Smallest k with P(Binomial(n, p) ≥ k) ≤ 1/100, in exact rationals."""
    tail, k = Fraction(0), n + 1
    while True:
        term = math.comb(n, k - 1) * p ** (k - 1) * (1 - p) ** (n - k + 1)
        if tail + term > Fraction(1, 100):
            return k
        tail, k = tail + term, k - 1


@pytest.mark.parametrize("p", [Fraction(1, 2), Fraction(9, 10), Fraction(99, 100)])
def test_upper_bound_against_exact_rationals(p: Fraction) -> None:
    least = stats.needed(float(p))
    for n in (least, least + 1, least + 30, 2 * least, 3 * least + 1):
        samples = np.random.default_rng(n).permutation(np.arange(1, n + 1))
        assert stats.upper_bound(samples, float(p)) == exact_rank(n, p)


@given(st.lists(st.integers(0, 50), min_size=7, max_size=120), st.sampled_from([0.5, 0.9]))
def test_percentile_against_its_definition(values: list[int], p: float) -> None:
    samples = np.array(values)
    found = stats.percentile(samples, p)
    if len(values) < stats.needed(p):
        assert found is None
        return
    share = Fraction(str(p))
    assert found == min(v for v in values if sum(w <= v for w in values) >= share * len(values))
    bound = stats.upper_bound(samples, p)
    assert bound is not None
    assert found <= bound <= max(values)


def test_the_bound_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    truth = -math.log(1 - 0.9)
    held = [
        (stats.upper_bound(rng.exponential(size=200), 0.9) or 0.0) >= truth for _ in range(2000)
    ]
    assert 0.985 <= np.mean(held) < 1.0


def test_the_bootstrap_interval_holds_the_median_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        low, high = stats.bootstrap(rng.exponential(size=20), seed)
        held += low <= math.log(2) <= high
    assert 0.88 <= held / 200 <= 0.99


# Pareto

POINT = st.builds(
    lambda group, error, low, width: pareto.Point(group, error, low, low + width),
    st.sampled_from("ab"),
    st.integers(1, 5),
    st.integers(1, 8),
    st.integers(0, 3),
)


@given(st.lists(POINT, max_size=12))
def test_marks_are_exactly_the_undominated(points: list[pareto.Point]) -> None:
    marks = pareto.front(points)
    for point, marked in zip(points, marks, strict=True):
        better = [
            other
            for other in points
            if other.group == point.group and other.error <= point.error and other.high < point.low
        ]
        assert marked is not bool(better)
        if better:
            marked_better = [o for o, m in zip(points, marks, strict=True) if m and o in better]
            assert marked_better
    for group in {point.group for point in points}:
        assert any(m for point, m in zip(points, marks, strict=True) if point.group == group)


@given(st.lists(POINT, max_size=12))
def test_sure_marks_hold_for_every_latency_within_the_intervals(
    points: list[pareto.Point],
) -> None:
    marks, certain = pareto.front(points), pareto.sure(points)
    for extreme in range(len(points)):  # one as slow, all others as fast as may be, and reversed
        for slow in (True, False):
            exact = [
                p._replace(low=x, high=x)
                for i, p in enumerate(points)
                for x in [p.high if (i == extreme) is slow else p.low]
            ]
            for on, sure, again in zip(marks, certain, pareto.front(exact), strict=True):
                assert not sure or on is again


# Sweeps


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artefacts")
    (folder / "damaged.onnx").write_bytes(b"\x08\x07 not a model")
    return {
        "light": onnx_file(folder / "light.onnx", "MatMul", 2),
        "heavy": onnx_file(folder / "heavy.onnx", "MatMul", 200),
        "log": onnx_file(folder / "log.onnx", "Log"),
        "damaged": folder / "damaged.onnx",
        "missing": folder / "missing.onnx",
    }


@pytest.fixture(scope="module")
def swept(files: dict[str, Path]) -> dict[str, Row]:
    """One sweep over good and bad artefacts and targets; rows by what they show."""
    negative = [*QUERIES, {"x": np.full((1, 64), -1.0, np.float32)}]
    entries = {
        "light": entry(files["light"]),
        "heavy": entry(files["heavy"]),
        "cores": entry(files["heavy"], CPU),
        "nan": entry(files["log"], queries=negative),
        "damaged": entry(files["damaged"]),
        "missing": entry(files["missing"]),
        "exit": entry(files["light"], planted("exits_on_load")),
        "abort": entry(files["light"], planted("aborts_while_running")),
        "memory": entry(files["light"], planted("eats_memory")),
        "killed": entry(files["light"], planted("is_killed")),
        "turns nan": entry(files["light"], planted("turns_nan")),
        "prints": entry(files["light"], planted("prints")),
        "provider": entry(
            files["light"], replace(SINGLE, name="trt", providers=("NoSuchProvider",))
        ),
        "format": replace(entry(files["light"]), format="torchscript"),
        "shape": entry(files["light"], queries=[{"x": np.ones((1, 63), np.float32)}]),
    }
    heard: list[tuple[float, str]] = []
    result = profile(list(entries.values()), (), 2.5, lambda *call: heard.append(call))
    shares = [share for share, _ in heard]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert Profile.from_json(result.to_json()) == result
    return dict(zip(entries, result.rows, strict=True))


@pytest.mark.parametrize("name", ["light", "heavy", "cores", "prints"])
def test_what_runs_is_measured(swept: dict[str, Row], name: str) -> None:
    row = swept[name]
    assert row.measured, row.reason
    assert row.rounds >= 7
    latency, bound, interval = row.latency_ms, row.latency_bound_ms, row.latency_interval_ms
    assert latency.p50 is not None
    assert latency.p90 is not None
    assert interval is not None
    assert bound.p50 is not None
    assert 0 < interval[0] <= latency.p50 <= interval[1]
    assert latency.p50 <= latency.p90
    assert latency.p50 <= bound.p50
    assert (latency.p99 is None) is (row.samples < 459)
    assert row.throughput is not None
    assert row.throughput == pytest.approx(1e3 / latency.p50, rel=0.9)
    assert row.peak_memory_mb is not None
    assert row.base_memory_mb is not None
    assert 10 < row.base_memory_mb <= row.peak_memory_mb < 500
    assert row.load_ms is not None
    assert row.first_ms is not None
    assert row.error == ERROR.bound


def test_more_layers_take_longer(swept: dict[str, Row]) -> None:
    light, heavy = swept["light"], swept["heavy"]
    assert heavy.latency_ms.p50 > 3 * light.latency_ms.p50
    assert heavy.cpu_seconds > 3 * light.cpu_seconds
    assert heavy.cpu_seconds * 1e3 == pytest.approx(heavy.latency_ms.p50, rel=0.8)
    assert heavy.ratio is not None
    assert light.ratio is None
    assert heavy.ratio.base == "light.onnx"
    assert 3 < heavy.ratio.low <= heavy.ratio.value <= heavy.ratio.high
    assert (light.pareto, heavy.pareto) == (True, False)


def test_threads_are_set(swept: dict[str, Row]) -> None:
    assert swept["cores"].threads == machine.available_cores()
    assert swept["heavy"].threads == 1
    assert swept["heavy"].spinning_ms < 2.0


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("nan", "failed", "64 values of 64 that are not finite"),
        ("damaged", "failed", "damaged.onnx"),
        ("missing", "failed", "missing.onnx"),
        ("exit", "crashed", "exit status 7 during 'open'; its last words were: planted last words"),
        ("abort", "crashed", "SIGABRT during"),
        ("memory", "crashed", "ran out of memory during 'open'"),
        ("killed", "crashed", "SIGKILL, which is how the system ends what takes too much memory"),
        ("turns nan", "failed", "3 values of 3 that are not finite"),
        ("provider", "unusable", "NoSuchProvider"),
        ("format", "unusable", "runs onnx files, and light.onnx is torchscript"),
        ("shape", "failed", "63"),
    ],
)
def test_a_failure_costs_one_row(swept: dict[str, Row], name: str, status: str, words: str) -> None:
    row = swept[name]
    assert row.status == status, row.reason
    assert words in row.reason
    assert row.latency_ms.p50 is None
    assert row.pareto is False


def test_a_hang_is_stopped(files: dict[str, Path]) -> None:
    result = profile([entry(files["light"], planted("hangs"))], (), 0.1, timeout=2.0)
    (row,) = result.rows
    assert row.status == "crashed"
    assert "no answer to 'open' within 2 s" in row.reason


def test_a_hang_in_a_round_costs_its_own_row(files: dict[str, Path], tmp_path: Path) -> None:
    entries = [entry(files["light"], planted("hangs_while_running")),
               entry(tmp_path / "3", planted("sleeps"))]  # fmt: skip
    hung, sound = profile(entries, (), 1.5, timeout=3.0).rows
    assert hung.status == "crashed"
    assert "no answer to 'round' within 3 s" in hung.reason
    assert sound.measured


def test_latencies_are_those_of_the_clock(tmp_path: Path) -> None:
    result = profile([entry(tmp_path / ms, planted("sleeps")) for ms in ("3", "6")], (), 1.0)
    for row, ms in zip(result.rows, (3.0, 6.0), strict=True):
        assert ms <= row.latency_ms.p50 < ms + 2
        assert row.cpu_seconds < 2e-3
    ratio = result.rows[1].ratio
    assert ratio is not None
    assert ratio.value == pytest.approx(2.0, rel=0.25)


def test_a_slow_artefact_still_gets_a_median(tmp_path: Path) -> None:
    (row,) = profile([entry(tmp_path / "100", planted("sleeps"))], (), 0.1).rows
    assert row.latency_ms.p50 == pytest.approx(100, rel=0.1)
    assert row.samples >= 7
    assert row.latency_ms.p90 is None


def test_a_worker_loads_numpy_and_onnxruntime_and_nothing_heavy(
    files: dict[str, Path], tmp_path: Path
) -> None:
    np.savez(tmp_path / "q.npz", **{"0 x": QUERIES[0]["x"]})
    with Worker() as worker:
        answer = worker.ask(
            "open",
            60,
            runtime="hostile:spies",
            path=str(files["light"]),
            format="onnx",
            threads=1,
            options={"providers": ["CPUExecutionProvider"]},
            queries=str(tmp_path / "q.npz"),
        )
    assert {"numpy", "onnxruntime"} <= set(answer["modules"])
    assert not {"torch", "onnx", "onnx_ir", "scipy", "matplotlib"} & set(answer["modules"])


def test_a_dead_worker_stays_crashed(tmp_path: Path) -> None:
    np.savez(tmp_path / "q.npz", **{"0 x": QUERIES[0]["x"]})
    request = {"runtime": "hostile:exits_on_load", "queries": str(tmp_path / "q.npz")}
    with Worker() as worker:
        for _ in range(2):
            with pytest.raises(Crashed, match="exit status 7"):
                worker.ask("open", 60, **request)


MODEL = """
import torch
from torchdiffeq import odeint


class Decay(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, scale, x):
        grid = torch.tensor([0.0, 1.0])
        return odeint(lambda t, y: -self.rate * y, x * scale, grid)[-1]


class Gradient(torch.nn.Module):
    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad((x**2).sum(), x)[0]
"""


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "decay.py"
    file.write_text(MODEL)
    yield file


def test_the_baseline_is_measured_with_the_threads_of_the_target(
    files: dict[str, Path], model: Path
) -> None:
    import torch

    torch.save({"rate": torch.tensor(2.0)}, model.with_suffix(".pt"))
    query = {"x": np.ones((1, 64), np.float32), "scale": np.ones((), np.float32)}
    baseline = Baseline(
        "m", f"{model}:Decay", "dopri5", [query], weights=model.with_suffix(".pt"), nfe=26
    )
    result = profile([entry(files["light"])], [baseline], 1.0)
    (row,), (light,) = result.baselines, result.rows
    assert row.measured, row.reason
    assert (row.format, row.form, row.threads, row.nfe) == ("pytorch", "adaptive", 1, 26)
    assert row.target == light.target
    assert row.latency_ms.p50 > light.latency_ms.p50
    assert light.ratio is not None
    assert light.ratio.base == "PyTorch"
    assert light.ratio.high < 1
    assert row.pareto is False


def test_a_model_that_differentiates_in_its_forward_runs(model: Path) -> None:
    request = {"path": f"{model}:Gradient", "weights": None, "threads": 1}
    run = openers.pytorch(request)().run
    for query in QUERIES:
        (slope,) = run(query)
        np.testing.assert_array_equal(slope, 2 * query["x"])


def test_an_address_that_builds_nothing_is_refused(model: Path) -> None:
    request = {"path": f"{model}:Nothing", "weights": None, "threads": 1}
    with pytest.raises(BadInput, match="has no 'Nothing'"):
        openers.pytorch(request)()


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean .onnxruntime."):
        openers.find("onnxrt")


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_a_time_that_is_not_positive_is_refused(files: dict[str, Path], seconds: float) -> None:
    with pytest.raises(BadInput, match="seconds"):
        profile([entry(files["light"])], (), seconds)


def test_nothing_to_measure_is_refused(files: dict[str, Path]) -> None:
    with pytest.raises(BadInput, match="nothing to profile"):
        profile([])
    with pytest.raises(BadInput, match="no inputs"):
        profile([replace(entry(files["light"]), queries=[])])


def test_the_fingerprint_names_the_machine_and_nobody() -> None:
    import getpass
    import socket

    told = machine.fingerprint()
    assert told["cpu"]
    assert told["cores"] >= 1
    assert {"odedeploy", "python", "numpy", "onnxruntime", "torch"} <= told["versions"].keys()
    words = str(told).lower().split()
    assert socket.gethostname().lower() not in words
    assert getpass.getuser().lower() not in words


def test_a_busy_machine_is_told() -> None:
    quiet = replace(a_row("cpu-1t", 1.25, 0.1), cpu_seconds=0.01, throughput=98.0)
    kept_waiting = replace(quiet, throughput=45.0)
    assert rows.disturbances([quiet]) == ()
    (sentence,) = rows.disturbances([quiet, kept_waiting])
    assert "45 % of its core" in sentence
    assert rows.disturbances([replace(kept_waiting, threads=2)]) == ()
    assert rows.disturbances([replace(kept_waiting, status="failed")]) == ()
