"""torchsde: stochastic solves, which are refused."""

from __future__ import annotations

from collections.abc import Sequence

import torchsde

from odedeploy.frontends.interception import Hook, refused

REASON = (
    "the model solves a stochastic differential equation, which has no fixed answer; "
    "solve its drift as an ODE instead."
)


def hooks() -> Sequence[Hook]:
    """The solver functions of torchsde."""
    return (
        refused("torchsde.sdeint", torchsde.sdeint, REASON),
        refused("torchsde.sdeint_adjoint", torchsde.sdeint_adjoint, REASON),
    )
