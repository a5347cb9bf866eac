"""``patients``: pbcseq, what the model reads of it, and its file on a CSV of one patient."""

from __future__ import annotations

import csv
import gzip
import runpy
from pathlib import Path

import latent_files
import numpy as np
import pytest
import torch
import torchless

from odedeploy import models
from odedeploy.errors import BadInput, UnknownName
from odedeploy.models import patients, pbcseq, training
from odedeploy.models.patients import PatientOde, Scale
from odedeploy.models.tasks import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the records of 312 made-up patients of 1 to 4 visits, in no order."""
    random = np.random.default_rng(0)
    columns = ["id", "age", "sex", "trt", "day", *pbcseq.VALUES]
    rows = []
    for number in range(1, 313):
        for visit in range(1 + number % 4):
            values = [f"{v:.2f}" for v in random.lognormal(1, 0.5, len(pbcseq.VALUES))]
            values[1] = "NA" if visit % 2 else values[1]
            rows.append([number, 50.5, "mf"[number % 2], number % 3 % 2, 180 * visit, *values])
    with gzip.open(tmp_path / "pbcseq.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows([columns, *(rows[i] for i in random.permutation(len(rows)))])
    found = {}
    monkeypatch.setattr(pbcseq, "_digest", lambda people: found.setdefault("digest", "made up"))
    monkeypatch.setattr(pbcseq, "CHECKSUM", "made up")
    return tmp_path


def test_records_are_read_by_patient_and_day(folder):
    people = pbcseq.load(folder)
    assert people.values.shape == people.observed.shape == (312, 16, 12)
    assert np.array_equal(people.visits, 1 + people.number % 4)
    assert np.array_equal(people.day[2], [0, 180, 360, 540] + [0] * 12)
    assert people.patient[4].tolist() == [50.5, 1, 0]
    assert people.observed[2, :5, 1].tolist() == [1, 0, 1, 0, 0]
    assert not people.values[people.observed == 0].any()
    assert (people.values[people.observed == 1] > 0).all()


def test_parts_share_no_patient(folder):
    people = pbcseq.load(folder)
    numbers = [people.part(name).number for name in pbcseq.PARTS]
    assert [len(part) for part in numbers] == [188, 46, 78]
    assert len(np.unique(np.concatenate(numbers))) == 312
    with pytest.raises(UnknownName, match="held-out"):
        people.part("heldout")


def test_prefixes_hold_what_came_before(folder):
    people = pbcseq.load(folder)
    pairs = pbcseq.following(people)
    assert len(pairs.date) == (people.visits - 1).sum()
    mine = np.flatnonzero(pairs.owner == 2)
    assert pairs.date[mine].tolist() == [180, 360, 540]
    for last, row in enumerate(mine):
        assert np.array_equal(pairs.values[row, : last + 1], people.values[2, : last + 1])
        assert not pairs.values[row, last + 1 :].any() and not pairs.observed[row, last + 1 :].any()
        assert np.array_equal(pairs.target[row], people.values[2, last + 1, :7])
        assert np.array_equal(pairs.known[row], people.observed[2, last + 1, :7])
    further = pbcseq.following(people, ahead=3)
    assert further.date[further.owner == 2].tolist() == [180, 360, 540, 360, 540, 540]


@pytest.mark.parametrize("content", [b"", b"id,day\n1,x\n", b"\x1f\x8bnot gzip", b"\xff\xfe"])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "pbcseq.csv").write_bytes(content)
    with pytest.raises(BadInput, match="fetch it again"):
        pbcseq.load(tmp_path)


def test_other_records_are_refused(folder, monkeypatch):
    monkeypatch.setattr(pbcseq, "CHECKSUM", "another")
    with pytest.raises(BadInput, match="checksum differs"):
        pbcseq.load(folder)
    with pytest.raises(BadInput, match="holds no pbcseq"):
        pbcseq.load(folder / "nowhere")


def test_shipping_prefixes_round_trips(folder, monkeypatch):
    people = pbcseq.load(folder)
    monkeypatch.setattr(pbcseq, "WEIGHTS", folder)
    pbcseq.ship(people, folder / pbcseq.SHIPPED)
    found = pbcseq.shipped()
    pairs = [pbcseq.following(people.part(name)) for name in ("validation", "held-out")]
    for name, array in found.items():
        assert np.array_equal(array, np.concatenate([getattr(part, name) for part in pairs]))


def test_a_model_trains_on_the_records_and_sees_only_the_training_patients(folder, tmp_path):
    people = pbcseq.load(folder)
    task = patients.predict(PatientOde, Recipe(1, (1e-2,), batch=32), people)
    own = people.part("training")
    bili = own.values[..., 0][own.observed[..., 0] > 0]
    scale = task.model().scale
    assert scale.mean[0].item() == pytest.approx(np.log(bili).mean(), rel=1e-4)
    assert scale.deviation[0].item() == pytest.approx(np.log(bili).std(), rel=1e-4)
    trained = training.run(task, tmp_path / "p.ckpt", device="cpu")
    assert 0 < task.held_out(trained)["rmse"] < 3 and 0 < task.test(trained)["rmse"] < 3


def test_the_last_known_values_are_found():
    random = np.random.default_rng(1)
    observed = (random.random((6, 9, 4)) < 0.3).astype(np.float32)
    known = random.standard_normal((6, 9, 4)).astype(np.float32) * observed
    last, ever = patients.latest_known(torch.from_numpy(known), torch.from_numpy(observed))
    for row, value in np.ndindex(6, 4):
        seen = np.flatnonzero(observed[row, :, value])
        assert ever[row, value] == (len(seen) > 0)
        assert last[row, value] == (known[row, seen[-1], value] if len(seen) else 0)


def test_standard_deviations_and_units_are_inverse():
    inputs = pbcseq.shipped()
    values, observed = (torch.from_numpy(inputs[name]) for name in ("values", "observed"))
    scale = Scale.of(values, observed)
    found = scale(values, observed)
    kept = observed.sum((0, 1))
    torch.testing.assert_close(found.sum((0, 1)) / kept, torch.zeros(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.square().sum((0, 1)) / kept, torch.ones(12), atol=1e-3, rtol=0)
    first = values[:, 0, :7][observed[:, 0, :7].all(1)]
    back = scale.units(scale(first, torch.ones_like(first)))
    assert list(back) == [name.replace(".", "_") for name in pbcseq.LABS]
    torch.testing.assert_close(torch.stack([*back.values()], 1), first, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return latent_files.shipped("patients", tmp_path_factory.mktemp("patients"))


def rows(inputs, chosen):
    return {name: array[chosen] for name, array in inputs.items()}


def same(found, expected, rtol):
    assert list(found) == list(expected)
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=rtol)


def test_the_shipped_prefixes_are_padded_records():
    inputs = pbcseq.shipped()
    assert {len(array) for array in inputs.values()} == {632}
    there = inputs["observed"].max(2)
    assert (np.diff(there, axis=1) <= 0).all() and there[:, 0].all()
    assert not inputs["values"][inputs["observed"] == 0].any()
    ahead = inputs["date"] - inputs["day"].max(1)
    assert 0 < ahead.min() and ahead.max() <= pbcseq.FURTHEST


@pytest.mark.parametrize("visits", [1, 2, 5, 16, 23])
def test_the_file_takes_any_number_of_visits(file, visits):
    model, inputs, session = file
    given = rows(inputs, slice(0, 3))
    shape = (3, visits, 12)
    random = np.random.default_rng(visits)
    given["observed"] = (random.random(shape) < 0.8).astype(np.float32)
    given["observed"][..., 0] = 1
    given["values"] = (1 + random.random(shape)).astype(np.float32) * given["observed"]
    given["day"] = np.sort(random.integers(0, 2000, (3, visits))).astype(np.float32)
    given["date"] = given["day"].max(1) + np.float32([30, 309, 1500])
    with torch.no_grad():
        expected = model(*(torch.from_numpy(array) for array in given.values()))
    same(session.run(given), {name: y.numpy() for name, y in expected.items()}, rtol=2e-3)


def test_padding_and_missing_values_say_nothing(file):
    _, inputs, session = file
    given = rows(inputs, slice(10, 11))
    count = int(given["observed"].max(2).sum())
    missing = 1 - given["observed"]
    expected = session.run(given)
    cut = {name: given[name][:, :count] for name in ("values", "observed", "day")}
    same(session.run(given | cut), expected, rtol=1e-5)
    short = given["day"].copy()
    short[:, count:] = 3
    same(session.run(given | {"day": short}), expected, rtol=1e-5)
    sparse = session.run(given | {"values": given["values"] * (1 - missing)})
    same(sparse, expected, rtol=1e-6)


def test_every_patient_has_dates_of_their_own(file):
    _, inputs, session = file
    several = rows(inputs, np.full(4, 20))
    several["date"] = several["day"].max(1) + np.float32([1, 30, 309, 1200])
    together = session.run(several)
    for row in range(4):
        alone = session.run(rows(several, slice(row, row + 1)))
        same(alone, {name: y[row : row + 1] for name, y in together.items()}, rtol=1e-5)
    assert np.ptp(together["bili"]) > 0.01 * together["bili"].mean()


def test_the_shipped_model_beats_the_last_value():
    """On the shipped prefixes: the next visit of a prefix is the last visit of the next one."""
    model, inputs = models.build("patients")
    count = inputs["observed"].max(2).sum(1).astype(int)
    follows = np.flatnonzero((count[1:] == count[:-1] + 1) & (inputs["day"].max(1)[1:] ==
                                                               inputs["date"][:-1]))  # fmt: skip
    assert len(follows) > 400
    before = [torch.from_numpy(array[follows]) for array in inputs.values()]
    place = count[follows + 1] - 1
    target, known = (torch.from_numpy(inputs[name][follows + 1, place, :7])
                     for name in ("values", "observed"))  # fmt: skip
    ours = patients.measure(model, (*before, target, known))["rmse"]
    last, _ = patients.latest_known(model.scale(*before[:2]), before[1])
    wrong = ((last[:, :7] - model.scale(target, known)) * known).square().sum() / known.sum()
    assert ours < 0.95 * wrong.sqrt().item()


@pytest.mark.slow
def test_the_example_reads_a_patient_without_torch(file, tmp_path):
    """The app's numbers are the model's on the same record."""
    from odedeploy import api
    from odedeploy.spec import ExportSpec

    model, _, _ = file
    path = tmp_path / "patients.onnx"
    spec = ExportSpec(tol=1e-2, solver="rk4", nfe=8, samples=90)
    api.deploy(api.load_model("patients"), spec, path)
    script, record = EXAMPLES / "read_patient.py", EXAMPLES / "patient.csv"
    done = torchless.run(
        f"import runpy, sys\nsys.argv = ['read_patient.py', {str(path)!r}, {str(record)!r}, "
        f"'2023-11-16']\nrunpy.run_path({str(script)!r}, run_name='__main__')\n"
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "2023-11-16, 309 days after the last visit"
    assert lines[-1].endswith("have an error of at most 0.01.")
    _, inputs = runpy.run_path(str(script))["read"](record)
    day = torch.tensor([inputs["day"][0, -1] + 309])
    with torch.no_grad():
        expected = model(*(torch.from_numpy(array) for array in inputs.values()), day)
    printed = {line.split()[0].replace(".", "_"): float(line.split()[1]) for line in lines[1:-1]}
    assert printed == pytest.approx({k: y.item() for k, y in expected.items()}, rel=0.02)
