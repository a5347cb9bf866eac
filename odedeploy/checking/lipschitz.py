"""How Lipschitz is the field, and so, why is its solution unique?

‖J‖₂ along trajectories, by power iteration on JᵀJ, is the local Lipschitz constant L there. Where
it is bounded, the solution from an initial state is the only one (Picard and Lindelöf), and two
solutions part by a factor of at most e^(L·T).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from odedeploy.checking.records import Finding, Subject
from odedeploy.checking.trajectories import visit
from odedeploy.errors import OdeDeployError
from odedeploy.executor import Field, States

INPUTS, POINTS = 8, 8
"""Inputs and times at which the Jacobian is examined."""

ITERATIONS = 12


def examine(subject: Subject) -> Finding:
    """The largest L·T over inputs, times and solves; ‖J‖₂ is over all inputs as one system."""
    lengths = {site.name: abs(site.times[-1] - site.times[0]) for site in subject.sites}
    largest = dict.fromkeys(lengths, 0.0)

    def look(site: str, field: Field, t: Tensor, states: States) -> None:
        largest[site] = max(largest[site], _norm_of_jacobian(field, t, states))

    try:
        visit(subject, INPUTS, POINTS, look)
    except (OdeDeployError, RuntimeError) as error:
        words = f"The field gives no Jacobian ({type(error).__name__})."
        return Finding("lipschitz", "unknown", words, {})
    values = {name: {"constant": c, "product": c * lengths[name]} for name, c in largest.items()}
    product = max(each["product"] for each in values.values())
    if not math.isfinite(product):
        words = "The Jacobian leaves the finite numbers along the trajectories."
        return Finding("lipschitz", "bad", words, values)
    words = (
        f"Along its trajectories the field is Lipschitz with L·T about {product:.3g}, so its "
        "solutions are unique there; kinks, such as ReLU's, leave it Lipschitz, though not smooth."
    )
    return Finding("lipschitz", "good", words, values)


def _norm_of_jacobian(field: Field, t: Tensor, states: States) -> float:
    """‖∂f/∂y‖₂ by power iteration on JᵀJ; J·v is a central difference, Jᵀ·u a gradient.

    ``field`` cuts gradients; the one it wraps does not.
    """
    generator = torch.Generator().manual_seed(0)
    v = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in states]
    scale = 1e-6 * (1.0 + _size(states))
    grown = 0.0
    for _ in range(ITERATIONS):
        size = _size(v)
        if not 0 < size < math.inf:
            break
        v = [x / size for x in v]
        up, down = (
            field(t, tuple(x + sign * scale * d for x, d in zip(states, v, strict=True)))
            for sign in (1, -1)
        )
        product = [(a - b).detach() / (2 * scale) for a, b in zip(up, down, strict=True)]
        grown = _size(product)
        v = _transposed(getattr(field, "__wrapped__", field), t, states, product)
    return grown


def _transposed(field: Field, t: Tensor, states: States, u: list[Tensor]) -> list[Tensor]:
    with torch.enable_grad():
        given = tuple(x.detach().requires_grad_() for x in states)
        slopes = [k for k in field(t, given)]
        pairs = [(k, w) for k, w in zip(slopes, u, strict=True) if k.requires_grad]
        if not pairs:
            return [torch.zeros_like(x) for x in states]
        found = torch.autograd.grad(
            [k for k, _ in pairs], given, [w for _, w in pairs], allow_unused=True
        )
    return [torch.zeros_like(x) if g is None else g for x, g in zip(states, found, strict=True)]


def _size(tensors: States | list[Tensor]) -> float:
    return float(torch.sqrt(sum(((x * x).sum() for x in tensors), torch.zeros(()).double())))
