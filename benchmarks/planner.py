"""Evaluations that each rung of the planner needs, and its error at equal evaluations.

For mnist-odenet, flow-digits, a smooth and a stiff synthetic field: adaptive dopri5 with its
tolerance swept, uniform RK4, the best classical method, non-uniform grids, learned and distilled
solvers. Plans are found on fit and chosen on fit and validate; the errors in the table are those
on the third split, which no choice has seen.

    python benchmarks/planner.py [--model NAME]… [--seed N]… [--tol T]… [--group NAME]…

Every cell is a line of results/planner.jsonl, written when it is measured; a run that was stopped
goes on where it was. planner_table.py makes the table and the plot of what is there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import planner_table
from planner_cases import CASES, Case, open_case
from planner_rungs import adaptive, classical, fitted

RESULTS = Path(__file__).parent / "results" / "planner.jsonl"

TOLS = (1e-1, 1e-2, 1e-3)
EQUAL = (4, 6, 8, 12)
"""Evaluations at which errors are compared."""

COUNTS = (
    *range(1, 17), 18, 20, 22, 24, 28, 32, 36, 40, 44, 48, 56, 64, 72, 80, 96, 112, 128, 160, 192,
)  # fmt: skip
"""Evaluations that are tried, in this order."""

UNIFORM = tuple(n for n in COUNTS if n % 4 == 0)
"""Evaluations of uniform RK4."""

FEWEST, MOST = 2, 24
"""Evaluations between which plans are fitted."""

SWEEP = tuple(10 ** (-quarter / 4) for quarter in range(2, 29))
"""rtol = atol of the adaptive solve, in quarters of a decade."""

Cell = list[dict[str, Any]]

GROUPS: Mapping[str, Callable[..., Cell]] = {
    "adaptive": adaptive, "classical": classical, "fitted": fitted,
}  # fmt: skip
"""What is measured at one tolerance of the adaptive solve, or at one number of evaluations."""


class Book:
    """The cells that are measured: one JSON line for each rung of a cell, appended at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.lines = [json.loads(line) for line in lines]

    def cell(self, case: Case, group: str, at: float) -> Cell:
        """The lines of one cell, from the file or else measured."""
        key = {"model": case.name, "weights": case.weights, "inputs": case.inputs,
               "seed": case.seed, "group": group, "at": at}  # fmt: skip
        known = [line for line in self.lines if key.items() <= line.items()]
        if known:
            return known
        began = time.monotonic()
        found = GROUPS[group](case, at) or [{"rung": None}]
        seconds = round(time.monotonic() - began, 1)
        new = [key | line | {"seconds": seconds} for line in found]
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in new)
        self.lines += new
        for line in new:
            print(_told(line), flush=True)
        return new


def fewest(points: Sequence[Any], passes: Callable[[Any], bool]) -> int:
    """The place of the first point that passes, if all after it do too; else len(points)."""
    low, high = 0, len(points)
    while low < high:
        middle = (low + high) // 2
        if passes(points[middle]):
            high = middle
        else:
            low = middle + 1
    return low


def measure(book: Book, case: Case, tols: Sequence[float], groups: Sequence[str]) -> None:
    """Every cell of one model and seed that the table needs; each tolerance is bisected."""
    if "adaptive" in groups:
        for tol in tols:
            fewest(SWEEP, lambda at, tol=tol: _error(book.cell(case, "adaptive", at)) <= tol)
    if "classical" in groups:
        for n in EQUAL:
            book.cell(case, "classical", n)
        for tol in tols:
            _classical(book, case, tol)
            fewest(UNIFORM, lambda n, tol=tol:
                   _error(book.cell(case, "classical", n), "rk4") <= tol)  # fmt: skip
    if "fitted" in groups:
        found = {line["rung"] for n in EQUAL for line in book.cell(case, "fitted", n)}
        for tol in tols:
            few = [n for n in COUNTS[: _classical(book, case, tol)] if FEWEST <= n <= MOST]
            for rung in found & {"learned", "distilled"}:
                fewest(few, lambda n, tol=tol, rung=rung:
                       _error(book.cell(case, "fitted", n), rung) <= tol)  # fmt: skip


def _classical(book: Book, case: Case, tol: float) -> int:
    """The place in ``COUNTS`` of the fewest evaluations with which a classical plan keeps tol."""
    return fewest(COUNTS, lambda n: _error(book.cell(case, "classical", n)) <= tol)


def _error(cell: Cell, rung: str | None = None) -> float:
    """The 0.99 quantile of a cell's rung, or of its best one."""
    lines = [line for line in cell if line["rung"] and rung in (None, line["rung"])]
    return min((line["q99"] for line in lines), default=float("inf"))


def _told(line: dict[str, Any]) -> str:
    place = f"{line['model']} seed {line['seed']} {line['group']} at {line['at']:.4g}"
    if line["rung"] is None:
        return f"{place}: no such plan"
    return (f"{place}: {line['rung']} by {line['solver']}, {line['nfe']:.4g} evaluations, "
            f"q99 {line['q99']:.2e} ({line['seconds']} s)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", action="append", choices=list(CASES))
    parser.add_argument("--seed", action="append", type=int)
    parser.add_argument("--tol", action="append", type=float, help="default: 1e-1, 1e-2, 1e-3")
    parser.add_argument("--group", action="append", choices=list(GROUPS))
    parser.add_argument("--inputs", type=int, default=1024, help="inputs of every model")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    groups = list(arguments.group or GROUPS)
    book = Book(arguments.results)
    for seed in arguments.seed or (0, 1, 2):
        for name in arguments.model or CASES:
            case = open_case(name, seed, arguments.inputs, min(TOLS))
            measure(book, case, arguments.tol or TOLS, groups)
    planner_table.write(book.lines, arguments.results)


if __name__ == "__main__":
    main()
