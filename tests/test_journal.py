from __future__ import annotations

import json
from pathlib import Path

import pytest

from odedeploy.errors import BadInput
from odedeploy.profiling import Journal

ASKED = {"tolerances": [0.1, 0.01], "models": [{"model": "m", "sha256": "1"}]}


def begun(path: Path) -> None:
    with Journal.begin(path, ASKED) as journal:
        journal.add("round", job="a", ns=[1, 2])
        journal.add("round", job="b", ns=[3])


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    begun(tmp_path / "j")
    with Journal.resume(tmp_path / "j", ASKED) as journal:
        assert [line["job"] for line in journal.of("round")] == ["a", "b"]
        journal.add("finished")
    lines = (tmp_path / "j").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["request", "round", "round", "finished"]


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_line_cut_short_is_dropped(tmp_path: Path, cut: int) -> None:
    begun(tmp_path / "j")
    whole = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(whole[:-cut])
    with Journal.resume(tmp_path / "j", ASKED) as journal:
        assert [line["job"] for line in journal.of("round")] == ["a"]
        journal.add("round", job="b", ns=[3])
    assert (tmp_path / "j").read_bytes() == whole


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({**ASKED, "tolerances": [0.1]}, "begun with tolerances 0.1, 0.01, and this one has 0.1;"),
        ({**ASKED, "models": []}, "begun with models model m, sha256 1, and this one has none"),
        ({**ASKED, "seconds": 3.0}, "begun with seconds None, and this one has 3"),
    ],
)
def test_another_request_is_refused(tmp_path: Path, asked: dict[str, object], words: str) -> None:
    begun(tmp_path / "j")
    before = (tmp_path / "j").read_bytes()
    with pytest.raises(BadInput, match=words):
        Journal.resume(tmp_path / "j", asked)
    assert (tmp_path / "j").read_bytes() == before


def test_nothing_to_resume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no sweep to resume"):
        Journal.resume(tmp_path / "j", ASKED)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"not json\n", b'{"kind": "round"}\n', b"[1]\n"])
def test_damage_is_told(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "j").write_bytes(damage)
    with pytest.raises(BadInput, match="without --resume"):
        Journal.resume(tmp_path / "j", ASKED)


def test_two_sweeps_in_one_folder_are_refused(tmp_path: Path) -> None:
    with (
        Journal.begin(tmp_path / "j", ASKED) as journal,
        pytest.raises(BadInput, match="Another sweep is writing"),
    ):
        journal.add("round", job="a")
        Journal.resume(tmp_path / "j", ASKED)


def test_a_sweep_that_did_nothing_leaves_what_was_there(tmp_path: Path) -> None:
    with Journal.begin(tmp_path / "new", ASKED):
        pass
    begun(tmp_path / "old")
    before = (tmp_path / "old").read_bytes()
    with Journal.begin(tmp_path / "old", ASKED):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == before
