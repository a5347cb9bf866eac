"""How a command ends when it does not end well."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from odedeploy.cli import extras, output
from odedeploy.errors import OdeDeployError, Unusable

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""What Typer raises for a command line that it cannot parse; it has no public name of its own."""


class Commands(TyperGroup):
    """The commands, with every failure of the library as one sentence and its exit code.

    With ``--json`` a failure is also the one JSON object on stdout. Any exception outside the
    family is a bug and keeps its traceback.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[output.AS_JSON] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        as_json = bool(ctx.meta[output.AS_JSON])
        try:
            with _ended_by_sigterm():
                return super().invoke(ctx)
        except UsageError as error:
            if as_json:
                output.emit(_described("UsageError", error.format_message(), 2))  # type: ignore[attr-defined]
            raise
        except OdeDeployError as error:
            failure = error
        except ModuleNotFoundError as error:
            failure = _missing(error)
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)
            raise typer.Exit(130) from None
        print(failure, file=sys.stderr)
        if as_json:
            kind = type(failure).__name__
            output.emit(_described(kind, str(failure), failure.exit_code))
        raise typer.Exit(failure.exit_code) from failure


def _described(kind: str, message: str, exit_code: int) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message, "exit_code": exit_code}}


def _missing(error: ModuleNotFoundError) -> OdeDeployError:
    """The failure that stands for a dependency that is not installed; a bug stays what it is."""
    name = (error.name or "").partition(".")[0]
    advice = extras.advice(name)
    if advice is None:
        raise error
    return Unusable(f"{name} is not installed, and this command needs it; {advice}.")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM unwinds the stack like Ctrl-C, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
