"""Lowering: ODE graph + plan → ordinary ONNX.

``FORMS`` maps the name of a form to the address ``module:function`` of what writes it, a function
of the ODE graph and the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType

import onnx_ir as ir

from odedeploy.errors import BadInput, UnknownName
from odedeploy.graph import OdeGraph
from odedeploy.lowering.batch import fixed
from odedeploy.program import Plan

FORMS: Mapping[str, str] = MappingProxyType(
    {
        "unrolled": "odedeploy.lowering.unrolled:unroll",
        "loop": "odedeploy.lowering.loop:loop",
        "adaptive": "odedeploy.lowering.adaptive:adaptive",
    }
)


def lower(graph: OdeGraph, plan: Plan, form: str = "unrolled") -> ir.Model:
    """A new model over ``ai.onnx`` that computes ``graph`` with its solves as ``plan`` says.

    Inputs, outputs, their names and dynamic axes stay as they are, the batch unless ``graph.batch``
    fixes it, and so does ``graph``; the
    plan's alarm is one more output. A form may add inputs that have defaults, and outputs.
    Raises UnknownName for a form that is not in ``FORMS``, BadInput for a plan of another model
    and for a form other than unrolled when a vector field cannot be held as a function or the plan
    has an alarm.
    """
    if form not in FORMS:
        raise UnknownName("form", form, FORMS)
    check_form(graph, form)
    if plan.alarm is not None and form != "unrolled":
        raise BadInput(
            f"An alarm watches a fixed number of evaluations, which the form {form!r} has not; "
            "write the unrolled form, or leave out --alarm."
        )
    if graph.trace is not None:
        model = graph.trace(plan)
    else:
        module, _, function = FORMS[form].partition(":")
        write: Callable[[OdeGraph, Plan], ir.Model] = getattr(import_module(module), function)
        model = write(graph, plan)
    return model if graph.batch is None else fixed(model, graph.batch)


def check_form(graph: OdeGraph, form: str) -> None:
    """Raises BadInput when ``graph`` cannot be lowered to ``form``, whatever the plan."""
    if form == "unrolled":
        return
    if graph.trace is not None:
        raise BadInput(
            f"A vector field of this model needs its times as constants, which the form "
            f"{form!r} has not; write the unrolled form."
        )
    if all(site.kept is not None for site in graph.sites):
        raise BadInput(
            f"No solve of this model is free to take the form {form!r}: fixed-step calls are kept "
            "exactly; write the unrolled form, or add --replan."
        )
