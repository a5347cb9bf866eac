"""Intercepting ODE solves: every call of a solver function reaches a handler instead.

A solver function is caught by exchanging its code object, so that no import style escapes: names
bound long before, functions stored on objects, partials and defaults all hold the same function
object. The exchange is undone when the last interception ends, also after an error. Handlers are
kept per thread: a thread that intercepts nothing runs the library's own solver meanwhile.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from odedeploy.executor import Field, States

ADAPTERS = {"torchdiffeq": "odedeploy.frontends.torchdiffeq"}
"""Library → module with ``hooks()``; imported when the library is installed."""

FRONTENDS = str(Path(__file__).parent)
TORCH = str(Path(torch.__file__).parent)


@dataclass(frozen=True)
class SolveCall:
    """One call of a solver, in the terms all libraries share.

    ``times`` (T,) are the output times as given. ``kept`` computes the trajectories of a
    fixed-step call for any (field, initial, times), by the library itself and with the caller's
    options; it is None for an adaptive call. ``run`` performs the call as its author wrote it,
    calling its argument at every evaluation of the field, and returns one trajectory (T, *state)
    per state tensor. ``wrap`` turns such trajectories into
    what the caller expects. ``location`` is the ``file:line`` of the call.
    """

    field: Field
    initial: States
    times: Tensor
    method: str
    run: Callable[[Callable[[], None]], States]
    wrap: Callable[[States], Any]
    kept: Callable[[Field, States, Tensor], States] | None = None
    location: str = ""


Handler = Callable[[SolveCall], States]


@dataclass(frozen=True)
class Hook:
    """One solver function of a library.

    ``shim`` is a function without free variables that returns ``dispatch(key, args, kwargs)``;
    ``translate`` turns the call's arguments into a SolveCall.
    """

    key: str
    function: Callable[..., Any]
    shim: Callable[..., Any]
    translate: Callable[[tuple[Any, ...], dict[str, Any]], SolveCall]


class Adapter(Protocol):
    """What a library's module offers."""

    def hooks(self) -> Sequence[Hook]: ...


class _Active(threading.local):
    handler: Handler | None = None


@dataclass
class _Installed:
    hook: Hook
    code: CodeType
    original: FunctionType


_active = _Active()
_lock = threading.Lock()
_installed: dict[str, _Installed] = {}
_depth = 0


@contextmanager
def intercept(handler: Handler) -> Iterator[None]:
    """Send every solve of this thread to ``handler`` until the block ends; may be nested."""
    previous = _active.handler
    _acquire()
    _active.handler = handler
    try:
        yield
    finally:
        _active.handler = previous
        _release()


def dispatch(key: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Called by the shims: to the thread's handler, or to the library when there is none.

    The handler itself runs uncaught, so it may call the library.
    """
    entry = _installed[key]
    handler = _active.handler
    if handler is None:
        return entry.original(*args, **kwargs)
    call = entry.hook.translate(args, kwargs)
    _active.handler = None
    try:
        return call.wrap(handler(call))
    finally:
        _active.handler = handler


@contextmanager
def intercepted_field(handler: Handler) -> Iterator[None]:
    """Catch solves again while a handler evaluates the vector field."""
    previous = _active.handler
    _active.handler = handler
    try:
        yield
    finally:
        _active.handler = previous


def call_site() -> str:
    """``file:line`` of the innermost frame outside the interception, torch and solver libraries."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_machinery(frame.f_code.co_filename):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _is_machinery(file: str) -> bool:
    return file.startswith((FRONTENDS, TORCH, "<")) or any(f"/{name}/" in file for name in ADAPTERS)


def _acquire() -> None:
    global _depth
    with _lock:
        if _depth == 0:
            for hook in _hooks():
                _install(hook)
        _depth += 1


def _release() -> None:
    global _depth
    with _lock:
        _depth -= 1
        if _depth == 0:
            for entry in _installed.values():
                cast(FunctionType, entry.hook.function).__code__ = entry.code
            _installed.clear()


def _hooks() -> Iterator[Hook]:
    for library, address in ADAPTERS.items():
        if find_spec(library) is not None:
            adapter = cast(Adapter, import_module(address))
            yield from adapter.hooks()


def _install(hook: Hook) -> None:
    function, shim = cast(FunctionType, hook.function), cast(FunctionType, hook.shim)
    code = function.__code__
    original = FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    original.__kwdefaults__ = function.__kwdefaults__
    _installed[hook.key] = _Installed(hook, code, original)
    function.__code__ = shim.__code__
