"""Continuous normalizing flows: trace, likelihood, both directions in onnxruntime, data, tasks."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import odedeploy
from odedeploy import api, models
from odedeploy.cli import app
from odedeploy.errors import BadInput, UnknownName
from odedeploy.formats import find
from odedeploy.grid import Grid
from odedeploy.models import checkpoint, cnf, cnf_moons, cnf_tabular, magic, training
from odedeploy.models.tasks import Recipe
from odedeploy.program import Plan, solve_plan
from odedeploy.solvers import find as find_solver

pytestmark = pytest.mark.usefixtures("one_thread")
TOL = 1e-2
FLOWS = [name for name in models.MODELS if name.startswith("cnf-")]


def eased(names):
    """The names, those of flows in more than two dimensions for the slow run."""
    return [pytest.param(n, marks=[pytest.mark.slow] * ("moons" not in n)) for n in names]


def seeded(make, seed: int = 0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def steep(dimensions: int, kind: type[cnf.Flow] = cnf.LogDensity) -> cnf.Flow:
    """A small float64 flow that was not trained, its weights enlarged so that it bends."""
    flow = seeded(lambda: kind(dimensions, width=8, depth=2, tolerance=1e-10)).double().eval()
    with torch.no_grad():
        for layer in (*flow.field.hidden, flow.field.last):
            layer.linear.weight *= 2
    return flow


@settings(max_examples=8, deadline=None)
@given(t=st.floats(0, 1), dimensions=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_trace_is_that_of_the_jacobian(t: float, dimensions: int, seed: int) -> None:
    field, now = steep(dimensions).field, torch.tensor(t, dtype=torch.float64)
    x = torch.from_numpy(cnf.normal(3, dimensions, seed)).double()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda y: field(now, y)))(x)
    velocity, trace = field.with_trace(now, x, cnf.units(x))
    torch.testing.assert_close(velocity, field(now, x))
    torch.testing.assert_close(trace, jacobian.diagonal(dim1=1, dim2=2).sum(1, keepdim=True))
    # Over all signs, what Hutchinson's directions contribute beside the trace cancels.
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * dimensions)
    signs = signs.reshape(-1, 1, dimensions)
    _, estimates = field.with_trace(now, x, signs)
    torch.testing.assert_close(estimates / len(signs), trace)


def test_the_log_density_is_that_of_the_change_of_variables() -> None:
    flow, size = steep(2), 1e-4
    x = torch.from_numpy(cnf.normal(5, 2, 3)).double()
    with torch.no_grad():
        answer = flow(x)
        moved = [flow(x + size * e)[:, :2] - flow(x - size * e)[:, :2] for e in cnf.units(x)]
    determinant = torch.linalg.det(torch.stack(moved, 2) / (2 * size)).abs().log()
    assert determinant.abs().max() > 0.1, "a flow that moves no volume proves nothing"
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(answer[:, :2]).sum(1)
    torch.testing.assert_close(answer[:, 2], normal + determinant, rtol=1e-6, atol=1e-6)


def test_sampling_undoes_encoding() -> None:
    flow, sampler = steep(3), steep(3, cnf.Sampler)
    x = torch.from_numpy(cnf.normal(4, 3, 1)).double()
    with torch.no_grad():
        torch.testing.assert_close(sampler(flow(x)[:, :3]), x, rtol=1e-7, atol=1e-7)


def test_the_true_density_of_the_moons_integrates_to_one() -> None:
    points, area = plane(80)
    density = np.exp(cnf_moons.true_log_density(points, nodes=400))
    assert density.sum() * area == pytest.approx(1, abs=1e-4)
    tops = np.array([[-0.5, 0.75], [0.5, -0.75]])
    near, far = (cnf_moons.true_log_density(scale * tops) for scale in (1, 3))
    assert near.min() > -0.5 > far.max()


def plane(side: int) -> tuple[np.ndarray, float]:
    """The midpoints of side² cells that cover the moons and more, and the area of a cell."""
    x, y = (low + (high - low) * (np.arange(side) + 0.5) / side for low, high in BOX)
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)
    return points, float(np.prod([(high - low) / side for low, high in BOX]))


BOX = ((-3.5, 3.5), (-2.75, 2.75))


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory):
    """By name: the shipped flow with RK4 in 10 steps, in onnxruntime, and its inputs."""
    folder = tmp_path_factory.mktemp("cnf")

    @cache
    def made(name: str):
        model, inputs = models.build(name)
        graph = api.capture(model, {key: array[:4] for key, array in inputs.items()})
        (site,) = graph.sites
        plan = Plan((solve_plan(site.name, find_solver("rk4"), Grid.through(site.times, 10)),))
        find("onnx").build(graph, plan, "unrolled").write(folder / f"{name}.onnx", {})
        return odedeploy.load(folder / f"{name}.onnx", threads=1), inputs

    return made


def answer(artefact, **inputs: np.ndarray) -> np.ndarray:
    session, _ = artefact
    (output,) = session.run(inputs, check=False).values()
    return output


def apart(found: np.ndarray, reference: np.ndarray) -> np.ndarray:
    return np.linalg.norm(found - reference, axis=1) / np.linalg.norm(reference, axis=1)


@pytest.mark.parametrize("name", eased(FLOWS))
def test_an_artefact_answers_as_the_model_does(artefacts, name: str) -> None:
    _, inputs = artefacts(name)
    given = {key: array[:64] for key, array in inputs.items()}
    with torch.no_grad():
        theirs = models.build(name)[0](*map(torch.from_numpy, given.values())).numpy()
    assert np.quantile(apart(answer(artefacts(name), **given), theirs), 0.95) <= TOL


@pytest.mark.parametrize("name", eased(["cnf-moons", "cnf-tabular"]))
def test_there_and_back_in_the_artefacts(artefacts, name: str) -> None:
    x = artefacts(name)[1]["x"][:256]
    latent = answer(artefacts(name), x=x)[:, :-1]
    back = answer(artefacts(f"{name}-sampler"), noise=latent)
    assert np.quantile(apart(back, x), 0.95) <= TOL


def test_the_density_of_the_artefact_integrates_to_one(artefacts) -> None:
    points, area = plane(60)
    density = np.exp(answer(artefacts("cnf-moons"), x=points)[:, -1].astype(float))
    assert density.sum() * area == pytest.approx(1, abs=TOL)


@pytest.mark.parametrize("name", eased(["cnf-moons", "cnf-tabular"]))
def test_the_artefact_has_the_likelihood_on_the_card(artefacts, name: str) -> None:
    session, inputs = artefacts(name)
    found = -answer(artefacts(name), x=inputs["x"])[:, -1].mean(dtype=float)
    assert found == pytest.approx(models.card(name)["held_out"]["nll"], abs=5 * TOL)


@pytest.mark.slow
def test_the_random_trace_has_the_exact_one_as_its_mean(artefacts) -> None:
    draws, row = 2000, artefacts("cnf-tabular")[1]["x"][:1]
    exact = answer(artefacts("cnf-tabular"), x=row)[0]
    noise = cnf.signs(draws, magic.COLUMNS, seed=5)
    found = answer(artefacts("cnf-tabular-hutchinson"), x=row.repeat(draws, 0), noise=noise)
    np.testing.assert_allclose(found[:, :-1], exact[None, :-1].repeat(draws, 0), atol=1e-4)
    error = found[:, -1].std() / np.sqrt(draws)
    assert error > 0 and abs(found[:, -1].mean() - exact[-1]) <= 5 * error


def test_samples_lie_on_the_moons(artefacts) -> None:
    samples = answer(artefacts("cnf-moons-sampler"), noise=cnf.normal(1000, 2, seed=9))
    assert np.mean(cnf_moons.true_log_density(samples) > -5) >= 0.8
    np.testing.assert_allclose(samples.mean(0), 0, atol=0.15)


def test_nats_are_what_the_log_density_is_off() -> None:
    reference = np.array([[3.0, 4.0, 0.0], [1.0, 1.0, -9.0]])
    found = reference + np.array([[0.0, 0.0, 0.25], [5.0, 0.0, -0.5]])
    np.testing.assert_allclose(cnf.nats(found, reference), [0.25, 0.5])


def test_the_parts_of_magic_share_no_row_and_are_standardised() -> None:
    parts = {name: magic.load(name) for name in magic.PARTS}
    rows = np.concatenate([*parts.values()])
    assert len(np.unique(rows, axis=0)) == len(rows) and rows.dtype == np.float32
    assert len(parts["held-out"]) == len(parts["test"]) == magic.HELD_OUT
    assert f"{len(parts['train']):,}" in magic.FACTS["training"]
    np.testing.assert_allclose(parts["train"].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(parts["train"].std(0), 1, atol=1e-5)
    with pytest.raises(UnknownName, match="held-out"):
        magic.load("heldout")


def test_shipping_drops_repeated_and_unmeasured_rows(tmp_path: Path, monkeypatch) -> None:
    rows = np.arange(1, 61, dtype=np.float32).reshape(6, 10)
    rows[2, 1] = 0
    lines = ["@data", *(",".join(f"{v:.4f}" for v in row) + ",g" for row in rows[[0, 1, 1, 2, 3]])]
    table, packed = tmp_path / "magic.dat", tmp_path / magic.SHIPPED
    table.write_text("\n".join(lines) + "\n")
    magic.ship(table, packed)
    with np.load(packed) as content:
        assert sorted(content["rows"][:, 0]) == [1, 11, 31]
    table.write_text("1,2,x,4,5,6,7,8,9,10,g\n")
    with pytest.raises(BadInput, match="not the table of MAGIC"):
        magic.ship(table, packed)
    with np.load(packed) as content:
        assert len(content["rows"]) == 3


TASKS = {"cnf-moons": (cnf_moons, 2), "cnf-tabular": (cnf_tabular, magic.COLUMNS)}


@pytest.mark.parametrize("name", TASKS)
def test_training_raises_the_likelihood(name: str, tmp_path: Path) -> None:
    module, dimensions = TASKS[name]
    task = replace(
        module.task(),
        model=lambda: cnf.LogDensity(dimensions, width=8, depth=1, tolerance=1e-3),
        size=256,
        recipe=Recipe(epochs=4, tolerances=(1e-2,) * 4, batch=64, learning_rate=2e-2),
        held_out=lambda flow: cnf.nll(flow, torch.from_numpy(module.build()[1]["x"][:128])),
    )
    before = task.held_out(seeded(task.model))["nll"]
    reports: list = []
    training.run(task, tmp_path / "run.ckpt", device="cpu", every=4, report=reports.append)
    assert reports[-1].held_out["nll"] < before - 0.05
    assert reports[0].forward_evaluations >= 8 and reports[0].backward_evaluations >= 8
    assert checkpoint.read(tmp_path / "run.ckpt").step == 16


@pytest.mark.parametrize("name", TASKS)
def test_a_folder_of_data_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="leave --data"):
        models.train(name, folder=tmp_path, data=tmp_path)


@pytest.mark.parametrize("name", [n for n in FLOWS if models.source(n) != n])
def test_a_model_without_weights_of_its_own_is_not_trained(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"has the weights of {models.source(name)}; train that"):
        models.train(name, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_is_certified_from_what_is_shipped(name: str, tmp_path: Path) -> None:
    path = tmp_path / "flow.onnx"
    asked = ["export", name, "--tol", str(TOL), "--budget", "30", "-o", str(path), "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert made["kept"] and made["error"]["bound"] <= TOL and made["error"]["samples"] >= 299
