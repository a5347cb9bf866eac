"""Computing at once, while tracing, what follows from stage times and other constants alone.

So a table is looked up at a stage time and a branch on it is taken with the number at hand, and
what they give enters the trace as a constant.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx.experimental.proxy_tensor import (
    disable_proxy_modes_tracing,
    get_proxy_mode,
    get_proxy_slot,
)
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

LARGEST = 4096
"""Most numbers of a constant that is computed so."""

SHORT = 64
"""Most numbers of a tensor of the model's that is taken for a constant: times, say."""


class Concrete(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operators whose operands are constants outside the trace.

    Constants are new tensors of Python numbers, short tensors that the model holds, and what is
    computed from them, with the help of weights and tables. What follows from weights alone is
    traced, so that none is stored twice.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._constants: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self._concrete(func, args, kwargs):
            return func(*args, **kwargs)
        with disable_proxy_modes_tracing(), unset_fake_temporarily():
            result = func(*args, **kwargs)
        tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        if any(tensor.numel() > LARGEST for tensor in tensors):
            return func(*args, **kwargs)
        self._constants.update({id(tensor): tensor for tensor in tensors})
        return result

    def _concrete(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        leaves = pytree.tree_leaves((args, kwargs))
        if any(isinstance(leaf, (torch.SymInt, torch.SymFloat, torch.SymBool)) for leaf in leaves):
            return False
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if torch.Tag.nondeterministic_seeded in func.tags or func.namespace != "aten":
            return False
        if any(_is_traced(tensor) for tensor in tensors):
            return False
        new = not tensors or func is torch.ops.aten.lift_fresh.default
        return new or any(
            id(tensor) in self._constants or tensor.numel() <= SHORT for tensor in tensors
        )


def _is_traced(tensor: Tensor) -> bool:
    mode = get_proxy_mode()
    return mode is not None and get_proxy_slot(tensor, mode.tracer, None) is not None
