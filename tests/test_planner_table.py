"""The planner benchmark's table: what its columns take from the measured cells."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parent.parent / "benchmarks" / "planner_table.py"


@pytest.fixture(scope="module")
def table():
    spec = importlib.util.spec_from_file_location("planner_table", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def line(rung, nfe, q99, ranked=None, seed=0, weights="new"):
    ranked = {} if ranked is None else {"ranked": ranked}
    return {
        "model": "m", "weights": weights, "inputs": 9, "seed": seed, "rung": rung, "solver": rung,
        "nfe": nfe, "at": nfe, "q50": q99 / 4, "q95": q99 / 2, "q99": q99, "max": 2 * q99, **ranked,
    }  # fmt: skip


LINES = [
    line("classical", 4, 0.3, 0.30),
    line("classical", 8, 0.02, 0.02),
    line("grid", 4, 0.05, 0.31),  # better where nobody may look, worse where plans are chosen
    line("grid", 8, 0.03, 0.01),
    line("learned", 4, 0.08, 0.07),
    line("adaptive", 14.5, 0.009),
]


def test_a_column_takes_what_ranks_best_and_not_what_scores_best(table):
    assert [p["rung"] for p in table.column(LINES, "best classical")] == ["classical"] * 2
    assert [p["rung"] for p in table.column(LINES, "+ grid")] == ["classical", "grid"]
    assert [p["rung"] for p in table.column(LINES, "+ learned")] == ["learned", "grid"]
    assert table.column(LINES, "+ distilled") == []


def test_the_fewest_evaluations_that_keep_a_tolerance(table):
    learned = table.column(LINES, "+ learned")
    assert [table.needed(learned, tol) for tol in (0.1, 0.03, 0.029)] == [4, 8, None]


def test_the_table_gives_medians_over_the_seeds_of_the_newest_weights(table):
    old = [line("classical", 2, 1e-9, 1e-9, weights="old")]
    others = [line("classical", n, 0.05, 0.05, seed=s) for s, n in ((1, 6), (2, 5))]
    found = table.summarise([*old, *LINES, *others])
    rows = {row["tol"]: row for row in found["needed"]}
    first = rows[0.1]["best classical"]
    assert (first["median"], first["least"], first["most"], first["seeds"]) == (6, 5, 8, 3)
    assert rows[0.01]["best classical"] == {"median": None, "seeds": 3, "reached": 0}
    assert rows[0.01]["adaptive dopri5"]["median"] == 14.5
    assert rows[0.1]["+ distilled"] is None
    equal = {(row["nfe"], row["column"]): row for row in found["equal"]}
    assert equal[4, "+ learned"]["q99"]["median"] == 0.08
    text = table.markdown(found)
    assert "| m | 0.1 | 14.5 | — | 6 (5–8) |" in text and "✗" in text
