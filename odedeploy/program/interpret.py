"""What a program means: its slow, living definition in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from odedeploy.errors import BadInput
from odedeploy.program.instructions import Evaluate, Program

Field = Callable[[Any, Any], Any]


def interpret(program: Program, f: Field | Sequence[Field], y0: Any) -> list[Any]:
    """States at the program's outputs, for dy/dt = f(t, y) from ``y0``.

    A state is one floating-point array of any shape, or a tuple of them; f takes and returns
    states as ``y0`` is given. Where evaluations have constants of their own, f is a sequence, one
    function per evaluation. Everything is computed in the dtypes of ``y0``, the time (0-d) in
    that of its first array.

    Raises BadInput when ``y0`` is not floating-point or f changes a shape.
    """
    single = not isinstance(y0, tuple)
    states = {0: (np.asarray(y0),) if single else tuple(map(np.asarray, y0))}
    if not all(np.issubdtype(y.dtype, np.floating) for y in states[0]):
        raise BadInput(f"The initial state must be floating-point, got {_describe(states[0])}.")
    slopes: dict[int, tuple[np.ndarray, ...]] = {}
    fields = iter([f] * program.evaluations if callable(f) else f)
    for step in program.instructions:
        if isinstance(step, Evaluate):
            y = states[step.state]
            slope = next(fields)(y[0].dtype.type(step.time), y[0] if single else y)
            slopes[step.slope] = _like(y, (slope,) if single else slope)
        else:
            states[step.state] = tuple(
                x + sum(x.dtype.type(c) * slopes[k][i] for k, c in step.terms)
                for i, x in enumerate(states[step.base])
            )
    return [states[i][0] if single else states[i] for i in program.outputs]


def _like(y: tuple[np.ndarray, ...], slope: Any) -> tuple[np.ndarray, ...]:
    """``slope`` in the dtypes of ``y``, after its shapes are found to be those of ``y``."""
    arrays = tuple(map(np.asarray, slope))
    if [k.shape for k in arrays] != [x.shape for x in y]:
        raise BadInput(
            f"The vector field returned {_describe(arrays)} for a state of {_describe(y)}; "
            "return one derivative of the same shape per state."
        )
    return tuple(k.astype(x.dtype, copy=False) for k, x in zip(arrays, y, strict=True))


def _describe(arrays: tuple[np.ndarray, ...]) -> str:
    return ", ".join(f"{a.dtype}{list(a.shape)}" for a in arrays)
