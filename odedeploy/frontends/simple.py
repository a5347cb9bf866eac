"""The simple door: a vector field on its own, with no solver library around it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from odedeploy.errors import BadInput

VectorField = Callable[..., Tensor]
"""f(t, x, **condition) → dx/dt of the shape of x; t is 0-d."""


class Flow(nn.Module):
    """x at t1 of dx/dt = f(t, x, **condition) from x at t0, inputs by keyword.

    ``f`` may be a module, a method of one, or a function that reads modules from its closure or
    its globals; a copy of the flow has copies of them.
    """

    def __init__(self, f: VectorField, t0: float, t1: float, condition: tuple[str, ...]) -> None:
        super().__init__()
        self.modules_read = nn.ModuleDict(_modules(f))
        self._f = (f,)
        self.span = (float(t0), float(t1))
        self.argument_names = ("x", *condition)
        self.training = any(module.training for module in self.modules_read.values())

    def forward(self, x: Tensor, **condition: Tensor) -> Tensor:
        (f,) = self._f
        times = torch.tensor(self.span, dtype=x.dtype, device=x.device)
        trajectory: Tensor = odeint(lambda t, y: f(t, y, **condition), x, times)
        return trajectory[-1]

    def __deepcopy__(self, memo: dict[int, Any]) -> Flow:
        twin = Flow.__new__(Flow)
        memo[id(self)] = twin
        for name, value in self.__dict__.items():
            if name != "_f":
                twin.__dict__[name] = copy.deepcopy(value, memo)
        copies = {id(m): twin.modules_read[key] for key, m in self.modules_read.items()}
        twin.__dict__["_f"] = (_rebound(self._f[0], copies),)
        return twin


def flow(f: VectorField, t0: float, t1: float, condition: Mapping[str, Any]) -> Flow:
    """``f`` as a module; raises BadInput for a field or times that cannot be solved."""
    if not callable(f):
        raise BadInput(f"The vector field is a {type(f).__name__}; give f(t, x, **condition).")
    if not t0 != t1:
        raise BadInput(f"The times t0 and t1 are both {t0}; give two distinct times.")
    if "x" in condition or "t" in condition:
        raise BadInput("A condition is named 'x' or 't', which are the state and the time.")
    return Flow(f, t0, t1, tuple(condition))


def _modules(f: Any) -> dict[str, nn.Module]:
    """The modules that ``f`` is or reads, by a name of the library's own."""
    if isinstance(f, nn.Module):
        found = [f]
    elif isinstance(getattr(f, "__self__", None), nn.Module):
        found = [f.__self__]
    elif isinstance(f, FunctionType):
        read = inspect.getclosurevars(f)
        values = [*read.nonlocals.values(), *read.globals.values()]
        found = [value for value in values if isinstance(value, nn.Module)]
    else:
        found = []
    unique = {id(module): module for module in found}
    return {f"module{i}": module for i, module in enumerate(unique.values())}


def _rebound(f: Any, copies: Mapping[int, nn.Module]) -> Any:
    """``f`` reading the copies instead of the modules."""
    if isinstance(f, nn.Module):
        return copies[id(f)]
    if isinstance(f, MethodType) and id(f.__self__) in copies:
        return MethodType(f.__func__, copies[id(f.__self__)])
    if not isinstance(f, FunctionType):
        return f
    cells = tuple(
        CellType(copies.get(id(cell.cell_contents), cell.cell_contents))
        for cell in f.__closure__ or ()
    )
    read = {name: copies.get(id(value), value) for name, value in f.__globals__.items()}
    twin = FunctionType(f.__code__, read, f.__name__, f.__defaults__, cells or None)
    twin.__kwdefaults__ = f.__kwdefaults__
    return twin
