"""Numbers and verdicts for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from odedeploy.profiling.records import Row, place, short

MISSING = "n/a"

READABLE = 6
"""Most sentences at the head of a report."""


def number(value: float | None) -> str:
    """Three significant digits, n/a for None."""
    if value is None:
        return MISSING
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds, n/a for None."""
    return number(None if seconds is None else 1e3 * seconds)


def size(value: int | None) -> str:
    """Bytes in kB or MB (10³, 10⁶)."""
    if value is None:
        return MISSING
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"


def headlines(rows: Sequence[Row]) -> list[str]:
    """The cheapest row of each tolerance beside the baseline, in sentences: of every target, or
    where that is too much to read, of the fastest."""
    found = [row for row in rows if row.pareto and row.tol is not None and _cheapest(row, rows)]
    if len(found) > READABLE:
        found = [row for row in found if _fastest(row, found)]
    return [_headline(row) for row in found]


def _headline(row: Row) -> str:
    sentence = short(row.model) + (f" within {row.tol:g}" if row.solves else "")
    sentence += f" takes {number(row.latency_ms.p50)} ms on {_where(row)}"
    if row.solves:
        sentence += f": {row.solver} with {row.nfe} evaluations"
    if row.precision != "fp32":
        sentence += f" in {row.precision}"
    if row.ratio is not None and row.ratio.base == "PyTorch":
        times, low, high = (
            number(1 / value) for value in (row.ratio.value, row.ratio.high, row.ratio.low)
        )
        base = "PyTorch solve" if row.solves else "model in PyTorch"
        sentence += f", {times} × as fast as the {base} (95 % interval {low} to {high})"
    return sentence + "."


def losses(rows: Sequence[Row]) -> Iterator[tuple[Row, str]]:
    """The rows off the Pareto front, each with what beat it, and those on it only because the
    measurement cannot tell them apart."""
    for row in rows:
        if not row.measured:
            continue
        if row.beaten_by:
            better = next(
                (o for o in rows if o.rivals == row.rivals and o.file == row.beaten_by), None
            )
            if better is not None:
                yield row, _beaten(row, better)
        elif row.pareto and row.pareto_sure is False:
            yield row, "on the front, but its interval overlaps that of a row of no larger error"


def _beaten(row: Row, better: Row) -> str:
    same = " the same error" if better.error == row.error else " a smaller error"
    said = (
        f"{better.file} has{same} ({number(better.error)} against {number(row.error)}) and takes "
        f"{_interval(better)} ms instead of {_interval(row)}"
    )
    if row.precision != "fp32" and better.precision == "fp32":
        said += f": {row.precision} does not pay here"
    return said


def _interval(row: Row) -> str:
    low, high = row.latency_interval_ms or (None, None)
    return f"{number(low)} to {number(high)}"


def _where(row: Row) -> str:
    return place(row) + ("" if row.batch == 1 else f" in batches of {row.batch}")


def _cheapest(row: Row, rows: Sequence[Row]) -> bool:
    """Whether no other row of its rivals of the same tolerance is faster."""
    rivals = [o for o in rows if o.tol == row.tol and o.rivals == row.rivals and o.measured]
    return row is min(rivals, key=lambda other: other.latency_ms.p50 or 0.0)


def _fastest(row: Row, rows: Sequence[Row]) -> bool:
    """Whether no other target of its device gives the same model, tolerance and batch faster."""
    key = (row.device, row.model, row.tol, row.batch)
    rivals = [o for o in rows if (o.device, o.model, o.tol, o.batch) == key]
    return row is min(rivals, key=lambda other: other.latency_ms.p50 or 0.0)
