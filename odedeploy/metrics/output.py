"""``output``: the relative error of the model's outputs, the worst of them."""

from __future__ import annotations

import numpy as np

from odedeploy.metrics.records import Answers, Floors, Metric
from odedeploy.metrics.relative import floors_of, scaled_error, tolerances
from odedeploy.spec import ExportSpec


def build(spec: ExportSpec) -> Metric:
    """‖out − ref‖₂ / max(‖ref‖₂, floor), the worst over the outputs, each in its own tolerance."""

    def errors(found: Answers, reference: Answers, floors: Floors) -> np.ndarray:
        return scaled_error(found.outputs, reference.outputs, floors, spec, "output")

    return Metric(
        name="output",
        limit=spec.tol,
        coverage=spec.coverage,
        errors=errors,
        resolved=errors,
        floors=lambda reference: floors_of(reference.outputs),
        keeps=f"have an error of at most {tolerances(spec)}",
        misses=f"have an error above {tolerances(spec)}",
    )
