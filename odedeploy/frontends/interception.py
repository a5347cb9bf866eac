"""Intercepting ODE solves: every call of a solver function reaches a handler instead.

A solver function is caught by exchanging its code object, so that no import style escapes: names
bound long before, functions stored on objects, partials and defaults all hold the same function
object. The exchange is undone when the last interception ends, also after an error. Handlers are
kept per thread: a thread that intercepts nothing runs the library's own solver meanwhile.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from odedeploy.errors import CaptureRefused
from odedeploy.executor import Field, States

ADAPTERS = {
    "torchdiffeq": "odedeploy.frontends.torchdiffeq",
    "torchdyn": "odedeploy.frontends.torchdyn",
    "torchode": "odedeploy.frontends.torchode",
    "torchsde": "odedeploy.frontends.torchsde",
    "zuko": "odedeploy.frontends.zuko",
}
"""Library → module with ``hooks()``; used once the library has been imported."""

FORKED = ("torchdiffeq",)
"""Libraries that people copy into their projects; these adapters look for copies themselves."""

CALLERS = ("flow_matching", "pytorch_lightning", "torchcde", "torchcfm")
"""Libraries that call those above; their frames are never a user's call site."""

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
    what the caller expects. ``location`` is the ``file:line`` of the call. ``jumps`` are times at
    which the caller says that the field jumps.
    """

    field: Field
    initial: States
    times: Tensor
    method: str
    run: Callable[[Callable[[], None]], States]
    wrap: Callable[[States], Any]
    kept: Callable[[Field, States, Tensor], States] | None = None
    location: str = ""
    jumps: Tensor | None = None


Handler = Callable[[SolveCall], States]


@dataclass(frozen=True)
class Hook:
    """One solver function of a library; it must be a plain function without a closure.

    ``key`` is unique; ``translate`` turns the call's arguments into a SolveCall, or raises
    CaptureRefused for a call that cannot be exported.
    """

    key: str
    function: Callable[..., Any]
    translate: Callable[[tuple[Any, ...], dict[str, Any]], SolveCall]


@dataclass(frozen=True)
class Rewritten:
    """A solver function whose calls ``replacement`` answers, by way of hooked functions."""

    key: str
    function: Callable[..., Any]
    replacement: Callable[..., Any]


def refused(key: str, function: Callable[..., Any], reason: str) -> Hook:
    """A solver function whose calls are refused, with the line of the call and ``reason``."""

    def translate(args: tuple[Any, ...], kwargs: dict[str, Any]) -> SolveCall:
        raise CaptureRefused(f"{call_site()}: {reason}")

    return Hook(key, function, translate)


class Adapter(Protocol):
    """What a library's module offers."""

    def hooks(self) -> Iterable[Hook | Rewritten]: ...


class _Active(threading.local):
    handler: Handler | None = None


@dataclass
class _Installed:
    hook: Hook | Rewritten
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


def solver_functions() -> frozenset[str]:
    """Keys of the solver functions that can be caught now; importing a library adds to them."""
    return frozenset(hook.key for hook in _hooks())


def dispatch(key: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Called by the shims: to the thread's handler, or to the library when there is none.

    The handler itself runs uncaught, so it may call the library.
    """
    entry = _installed[key]
    handler = _active.handler
    if handler is None:
        return entry.original(*args, **kwargs)
    if isinstance(entry.hook, Rewritten):
        return entry.hook.replacement(*args, **kwargs)
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


def check_shapes(derivatives: States, states: States, location: str) -> None:
    """Raises CaptureRefused unless there is one derivative of the same shape per state."""
    if len(derivatives) != len(states):
        raise CaptureRefused(
            f"{location}: the vector field returned {len(derivatives)} tensors for a state of "
            f"{len(states)}; return one derivative per state tensor."
        )
    for derivative, state in zip(derivatives, states, strict=True):
        if derivative.shape != state.shape:
            raise CaptureRefused(
                f"{location}: the vector field returned shape {tuple(derivative.shape)} for a "
                f"state of shape {tuple(state.shape)}; they must be equal."
            )


def _is_machinery(file: str) -> bool:
    return file.startswith((FRONTENDS, TORCH, "<", *_library_folders()))


def _library_folders() -> Iterator[str]:
    for library in (*ADAPTERS, *CALLERS):
        origin = getattr(sys.modules.get(library), "__file__", None)
        if origin is not None:
            yield f"{Path(origin).parent}{os.sep}"


def _acquire() -> None:
    global _depth
    with _lock:
        if _depth == 0:
            try:
                for hook in _hooks():
                    _install(hook)
            except BaseException:
                _restore()
                raise
        _depth += 1


def _release() -> None:
    global _depth
    with _lock:
        _depth -= 1
        if _depth == 0:
            _restore()


def _restore() -> None:
    for entry in _installed.values():
        cast(FunctionType, entry.hook.function).__code__ = entry.code
    _installed.clear()


def _hooks() -> Iterator[Hook | Rewritten]:
    for library, address in ADAPTERS.items():
        if library in sys.modules or library in FORKED:
            adapter = cast(Adapter, import_module(address))
            yield from adapter.hooks()


def _install(hook: Hook | Rewritten) -> None:
    function = cast(FunctionType, hook.function)
    code = function.__code__
    original = FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    original.__kwdefaults__ = function.__kwdefaults__
    _installed[hook.key] = _Installed(hook, code, original)
    function.__code__ = _shim(hook.key)


def _shim(key: str) -> CodeType:
    """Code that hands a call to ``dispatch``; it runs in the solver's own module, so it imports."""

    def shim(*args, **kwargs):  # type: ignore[no-untyped-def]
        from odedeploy.frontends.interception import dispatch

        return dispatch("key", args, kwargs)

    code = shim.__code__
    constants = tuple(key if value == "key" else value for value in code.co_consts)
    return code.replace(co_consts=constants)
