"""Which of a forward's inputs a tensor is computed from, told by following the operators."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from odedeploy.frontends.interception import call_site

SHAPED = {"zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"}
"""Functions that read the shape of their operand and none of its numbers."""

LIKE_ANOTHER = {"to", "type_as", "expand_as", "view_as", "reshape_as"}
"""Methods that read the numbers of their first operand alone."""

READS = {"item", "tolist", "numpy", "__array__", "__bool__", "__float__", "__index__", "__int__"}
"""Methods that hand numbers to Python, where they cannot be followed."""


class Provenance(TorchFunctionMode):
    """Follows the named ``inputs`` through a forward.

    ``read`` holds the inputs whose numbers Python code read, with the line where it did.
    """

    def __init__(self, inputs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.read: dict[str, str] = {}
        self._origins: Any = WeakTensorKeyDictionary()
        self._paused = False
        for name, tensor in inputs.items():
            self._origins[tensor] = frozenset((name,))

    def of(self, value: Any) -> frozenset[str]:
        """The inputs that the tensors in ``value`` are computed from."""
        tensors = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
        return frozenset[str]().union(*(self._origins.get(x, ()) for x in tensors))

    def mark(self, tensors: Iterable[Tensor], origins: frozenset[str]) -> None:
        """Note that ``tensors`` are computed from the inputs ``origins``."""
        for tensor in tensors:
            self._origins[tensor] = origins

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Follow nothing inside the block, which a solver's many evaluations would slow down."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._paused:
            self._follow(getattr(func, "__name__", ""), args, kwargs, result)
        return result

    def _follow(self, name: str, args: tuple[Any, ...], kwargs: Any, result: Any) -> None:
        origins = self.of(args[:1] if name in LIKE_ANOTHER else (args, kwargs))
        if not origins or name in SHAPED or name.startswith("new_"):
            return
        if name in READS:
            self.read.update(dict.fromkeys(origins - self.read.keys(), call_site()))
        written = args[:1] if name == "__setitem__" else result
        self.mark((x for x in pytree.tree_leaves(written) if isinstance(x, Tensor)), origins)
