"""Precisions: how a lowered model computes its vector fields in fewer bits, one a file.

Of a field, and of nothing else: the state, its accumulation, the combinations of slopes and the
rest of the model stay float32. fp32 is the absence of all of these. A new precision is one module
and one line in ``PRECISIONS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType

import onnx_ir as ir

from odedeploy.errors import BadInput, UnknownName
from odedeploy.graph import Inputs, OdeGraph
from odedeploy.program import Plan

PRECISIONS: Mapping[str, str] = MappingProxyType(
    {
        "fp16": "odedeploy.precision.half:fp16",
        "bf16": "odedeploy.precision.half:bf16",
        "int8": "odedeploy.precision.int8:int8",
    }
)
"""Name → ``module:function``, a function of a model after its passes and of calibration inputs."""

ROWS = 64
"""Calibration inputs in use; each is seen at every evaluation of its trajectory."""

Transform = Callable[[ir.Model, Plan], ir.Model]
"""What is done to a lowered model before it is written or run; it keeps inputs and outputs."""


def transform(name: str, graph: OdeGraph, inputs: Inputs) -> Transform:
    """Passes, then the precision, calibrated on ``inputs`` along the trajectories of the plan.

    ``inputs`` are like those of the model, ``ROWS`` of them or so. Raises UnknownName for a
    precision that no table holds and BadInput for a graph that traces its plans, in which a
    vector field cannot be told from the rest.
    """
    if name not in PRECISIONS:
        raise UnknownName("precision", name, ("fp32", *PRECISIONS))
    if graph.trace is not None:
        raise BadInput(
            f"The vector field of this model is traced anew for every plan, so {name} cannot find "
            "it in the result; export it in fp32."
        )
    module, _, function = PRECISIONS[name].partition(":")
    write: Callable[[ir.Model, Inputs], ir.Model] = getattr(import_module(module), function)

    def apply(model: ir.Model, plan: Plan) -> ir.Model:
        from odedeploy.passes import clean

        return write(clean(model), inputs)

    return apply
