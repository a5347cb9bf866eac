"""Noise that a model draws in forward: noticed, and turned into a constant or an input.

Frozen silently, a draw would give every run the noise of the trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from odedeploy.errors import BadInput, CaptureRefused
from odedeploy.frontends.interception import call_site
from odedeploy.graph import Inputs

CHOICES = ("fixed", "input")
NORMAL = {"randn", "randn_like", "normal_"}
UNIFORM = {"rand", "rand_like", "uniform_"}
OTHERS = {
    "bernoulli", "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_",
    "multinomial", "native_dropout", "normal", "poisson", "randint", "randint_like", "random_",
    "randperm",
}  # fmt: skip


@dataclass(frozen=True)
class Draw:
    """One random operator of a forward: its name, shape, dtype and place, and its two parameters.

    The parameters are the mean and the deviation, or the bounds, of in-place operators.
    """

    operator: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    location: str
    parameters: tuple[float, float]

    def sample(self, rows: int, generator: torch.Generator) -> Tensor:
        """As many rows of noise, on the first axis."""
        shape = (rows, *self.shape[1:])
        a, b = self.parameters
        if self.operator in NORMAL:
            return a + b * torch.randn(shape, generator=generator, dtype=self.dtype)
        return a + (b - a) * torch.rand(shape, generator=generator, dtype=self.dtype)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every random operator in ``draws``."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draws: list[Draw] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = _random(func)
        if name and isinstance(result, Tensor):
            bounds = _parameters(name, args, kwargs or {})
            self.draws.append(Draw(name, tuple(result.shape), result.dtype, call_site(), bounds))
        return result


class _Replace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers the k-th random operator with the k-th of ``values``, expanded to its shape."""

    def __init__(self, values: Iterator[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._values = values

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = _random(func)
        if not name:
            return func(*args, **(kwargs or {}))
        value = next(self._values, None)
        if value is None:
            raise CaptureRefused(
                f"{call_site()}: the model draws noise more often for some inputs than for others."
            )
        if name.endswith("_"):
            return args[0].copy_(value)
        shape = args[0].shape if isinstance(args[0], Tensor) else args[0]
        return value.expand(shape)


class Noisy(nn.Module):
    """A model whose draws are given: one seeded row for all samples, or inputs ``noise_0`` ….

    Forward takes the model's own inputs by name, and the noise by name when it is an input.
    """

    def __init__(
        self, model: nn.Module, names: tuple[str, ...], draws: tuple[Draw, ...], choice: str,
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model = model
        self.draws = draws
        self.seed = seed
        self.noise = tuple(f"noise_{i}" for i in range(len(draws))) if choice == "input" else ()
        self.argument_names = (*names, *self.noise)
        if choice == "fixed":
            for i, draw in enumerate(draws):
                self.register_buffer(f"seeded_{i}", draw.sample(1, self._generator(i)))
        self.training = model.training

    def forward(self, **inputs: Tensor) -> Any:
        if self.noise:
            values = [inputs.pop(name) for name in self.noise]
        else:
            values = [getattr(self, f"seeded_{i}") for i in range(len(self.draws))]
        with _Replace(iter(values)):
            return self.model(**inputs)

    def filled(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """``inputs`` with seeded noise for every row where none is given."""
        rows = max((len(a) for a in inputs.values() if np.ndim(a)), default=1)
        added = {
            name: self.draws[i].sample(rows, self._generator(i)).numpy()
            for i, name in enumerate(self.noise)
            if name not in inputs
        }
        return {**inputs, **added}

    def _generator(self, i: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed + i)


def settle(
    model: nn.Module, inputs: Mapping[str, Any], draws: list[Draw], rows: int, choice: str | None
) -> Noisy:
    """``model`` with its noise as ``choice`` says.

    Raises CaptureRefused without a choice, and for noise that cannot be given row by row.
    """
    first = draws[0]
    if choice is None:
        raise CaptureRefused(
            f"{first.location}: the model draws noise in forward ({first.operator}); say what "
            "becomes of it: --noise fixed holds one seeded draw, --noise input makes it an input."
        )
    if choice not in CHOICES:
        raise BadInput(f"noise is {' or '.join(CHOICES)}, not {choice!r}.")
    for draw in draws:
        if draw.operator in OTHERS or draw.shape[:1] != (rows,):
            raise CaptureRefused(
                f"{draw.location}: noise by {draw.operator} of shape {draw.shape} cannot be given "
                "per input; draw it before the call and pass it as an argument."
            )
    return Noisy(model, tuple(inputs), tuple(draws), choice)


@contextmanager
def watched() -> Iterator[list[Draw]]:
    """Notes the draws of a block."""
    watch = Watch()
    with watch:
        yield watch.draws


def _random(func: Any) -> str:
    name = str(func._schema.name).partition("::")[2]
    return name if name in NORMAL | UNIFORM | OTHERS else ""


def _parameters(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[float, float]:
    if not name.endswith("_"):
        return 0.0, 1.0
    named = [kwargs[k] for k in ("mean", "std", "from", "to") if k in kwargs]
    given = [float(a) for a in (*args[1:3], *named)]
    first, second = given + [0.0, 1.0][len(given) :]
    return first, second


__all__ = ["CHOICES", "Draw", "Noisy", "settle", "watched"]
