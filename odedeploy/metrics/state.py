"""``state``: the relative error of the final states of the model's solves, the worst of them."""

from __future__ import annotations

import numpy as np

from odedeploy.errors import BadInput
from odedeploy.metrics.records import Answers, Floors, Metric
from odedeploy.metrics.relative import floors_of, scaled_error, tolerances
from odedeploy.spec import ExportSpec


def build(spec: ExportSpec) -> Metric:
    """‖y(t₁) − ref‖₂ / max(‖ref‖₂, floor), the worst over the states whose first axis is the batch.

    Raises BadInput, when errors are computed, for a model without such a state.
    """

    def errors(found: Answers, reference: Answers, floors: Floors) -> np.ndarray:
        states = {name: found.states[name] for name in _states(reference)}
        return scaled_error(states, reference.states, floors, spec, "state")

    return Metric(
        name="state",
        limit=spec.tol,
        coverage=spec.coverage,
        errors=errors,
        resolved=errors,
        floors=lambda reference: floors_of(_states(reference)),
        keeps=f"have final states with an error of at most {tolerances(spec)}",
        misses=f"have final states with an error above {tolerances(spec)}",
        of_states=True,
    )


def _states(answers: Answers) -> dict[str, np.ndarray]:
    if not answers.states:
        raise BadInput(
            "--metric state needs a solve whose state has the batch on its first axis, and this "
            "model has none; use --metric output."
        )
    return dict(answers.states)
