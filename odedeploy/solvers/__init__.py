"""The catalogue of solvers, and other libraries' names for them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from odedeploy.errors import UnknownName
from odedeploy.solvers import (
    adams_bashforth,
    dormand_prince,
    runge_kutta,
    stabilised,
    tsitouras,
)
from odedeploy.tableau import Method

_METHODS: tuple[Method, ...] = (
    runge_kutta.EULER,
    adams_bashforth.AB2_EULER,
    adams_bashforth.AB2_MIDPOINT,
    adams_bashforth.AB3_EULER,
    adams_bashforth.AB3_MIDPOINT,
    adams_bashforth.AB4_EULER,
    adams_bashforth.AB4_MIDPOINT,
    runge_kutta.MIDPOINT,
    runge_kutta.HEUN2,
    runge_kutta.RALSTON2,
    runge_kutta.HEUN3,
    runge_kutta.KUTTA3,
    runge_kutta.RALSTON3,
    runge_kutta.RK4,
    runge_kutta.RK4_38,
    dormand_prince.DOPRI5,
    tsitouras.TSIT5,
    dormand_prince.DOPRI8,
    *(stabilised.method(family, 5) for family in stabilised.FAMILIES),
)

SOLVERS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _METHODS})
"""Every solver by name, cheapest step first; of the stabilised families one number of stages each,
``find`` knows the others."""

REFERENCE = "dopri8"
"""The solver of reference solves; its 13 evaluations a step are too coarse for the search."""

STABILISED: tuple[str, ...] = tuple(
    f"{family}_{stages}" for family in stabilised.FAMILIES for stages in (3, 5, 8, 12, 16)
)
"""Tried by a search as well where a vector field is stiff."""

LADDER: tuple[str, ...] = tuple(
    name for name in SOLVERS if name not in (REFERENCE, *STABILISED)
)
"""The solvers that a search tries."""

TORCHDIFFEQ: Mapping[str, str] = MappingProxyType(
    {
        "euler": "euler",
        "midpoint": "midpoint",
        "heun2": "heun2",
        "heun3": "heun3",
        "rk4": "rk4_38",
    }
)
"""torchdiffeq's fixed-step Runge–Kutta methods by its own names; its ``rk4`` is the 3/8 rule."""


def find(name: str) -> Method:
    """The solver called ``name``. Raises UnknownName, which lists the catalogue."""
    found = SOLVERS.get(name) or stabilised.find(name)
    if found is None:
        raise UnknownName("solver", name, SOLVERS)
    return found
