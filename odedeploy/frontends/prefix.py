"""What a forward computes before its first solve, computed once for inputs that stay the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from odedeploy.executor import States
from odedeploy.frontends.interception import Handler, SolveCall


class Prefix:
    """Remembers the operators of a forward up to its first solve, and replays their results.

    A search runs one model on the same few inputs hundreds of times, and a stem in front of the
    solve may cost more than the solve. The replay stops being used when a forward takes another
    path, when something remembered was changed in place, and when the prefix takes gradients.
    """

    def __init__(self) -> None:
        self._results: list[tuple[Any, Any]] = []
        self._versions: list[tuple[Tensor, int]] = []
        self._complete = False
        self._usable = True

    @contextmanager
    def __call__(self, handler: Handler) -> Iterator[Handler]:
        """``handler`` for one forward, whose first call ends the prefix."""
        if not self._usable or (self._complete and self._changed()):
            yield handler
            return
        mode = _Replay(self._results, self._complete)
        leave = _once(mode)
        mode.__enter__()  # type: ignore[no-untyped-call]

        def first(call: SolveCall) -> States:
            leave()
            self._note(mode)
            return handler(call)

        try:
            yield first
        finally:
            leave()

    def _note(self, mode: _Replay) -> None:
        self._usable = self._usable and mode.faithful
        if self._usable and not self._complete:
            tensors = [t for _, result in self._results for t in tree_leaves(result)]
            self._versions = [(t, t._version) for t in tensors if isinstance(t, Tensor)]
            self._complete = True
        if not self._usable:
            self._results.clear()
            self._versions.clear()

    def _changed(self) -> bool:
        return any(tensor._version != version for tensor, version in self._versions)


class _Replay(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the result of every operator, or gives back what was noted."""

    def __init__(self, results: list[tuple[Any, Any]], replaying: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._results, self._replaying = results, replaying
        self._place = 0
        self.faithful = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs))
        if any(isinstance(x, Tensor) and x.requires_grad for x in leaves):
            self.faithful = False
        place, self._place = self._place, self._place + 1
        if self.faithful and self._replaying:
            if place < len(self._results) and self._results[place][0] is func:
                # a tensor that autograd has seen cannot come out of another operator again
                return tree_map_only(Tensor, Tensor.detach, self._results[place][1])
            self.faithful = False
        result = func(*args, **(kwargs or {}))
        if self.faithful:
            self._results.append((func, result))
        return result


def _once(mode: TorchDispatchMode) -> Callable[[], None]:
    """Leaves ``mode`` the first time it is called."""
    entered = [mode]

    def leave() -> None:
        if entered:
            entered.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    return leave
