"""What the commands print: one JSON object, or tables for people, and progress on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

AS_JSON = "odedeploy.json"
"""Where the parsing context keeps whether ``--json`` was given."""


WIDE = 160
"""Columns of output that goes into a pipe or a log."""


def emit(data: Any) -> None:
    """One JSON object on stdout; numbers that are not finite become null."""
    json.dump(_finite(data), sys.stdout, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")
    sys.stdout.flush()


def show(*parts: Any) -> None:
    """Tables and sentences on stdout, with rich; wide where no terminal sets the width."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))


def warn(sentence: str) -> None:
    """One sentence on stderr."""
    print(sentence, file=sys.stderr)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Columns whose name ends in ``>`` are aligned to the right; None is an empty cell."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(text(cell)) for cell in row))
    return made


def facts(title: str, pairs: Sequence[tuple[str, Any]]) -> Table:
    """Names and values, one pair a line; pairs whose value is None are left out."""
    made = table(title, ("", ""), [(name, value) for name, value in pairs if value is not None])
    made.show_header = False
    return made


def text(value: Any) -> str:
    """A cell: three significant digits of a float, nothing for None."""
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def size(count: int | None) -> str:
    """Bytes for a reader: ``835 kB``, ``1.2 MB``."""
    if count is None:
        return ""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} bytes"


@contextmanager
def working() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr while the block runs, on a terminal only.

    Yields ``progress(stage, done, total)``. What anything inside prints goes to stderr.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(file=sys.stderr)
    columns = (SpinnerColumn(), TextColumn("{task.description:<24}"), BarColumn(),
               TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(), TextColumn("left"),
               TimeRemainingColumn())  # fmt: skip
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with redirect_stdout(sys.stderr), bar:
        task = bar.add_task("starting", total=None)

        def progress(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total or None)

        yield progress


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
