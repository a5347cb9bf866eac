"""Metrics: what the error of one input is, and what a tolerance says about it.

One file per metric; its ``build`` turns a request into a ``Metric``, and one line in ``METRICS``
makes it known. A name with a colon is a person's own function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import cast

from odedeploy.errors import UnknownName
from odedeploy.metrics.records import Answers as Answers
from odedeploy.metrics.records import Margins as Margins
from odedeploy.metrics.records import Metric as Metric
from odedeploy.metrics.records import broken as broken
from odedeploy.spec import ExportSpec

METRICS: Mapping[str, str] = MappingProxyType(
    {
        "output": "odedeploy.metrics.output",
        "state": "odedeploy.metrics.state",
        "agreement": "odedeploy.metrics.agreement",
    }
)
"""Name → module with ``build(spec) -> Metric``."""

CUSTOM = "odedeploy.metrics.custom"
"""The module of ``module:function``."""


def of(spec: ExportSpec) -> Metric:
    """The metric that ``spec`` asks for, with its tolerance and the share of inputs that keep it.

    Raises UnknownName for a name that no table holds, BadInput for a function that is not usable.
    """
    if ":" not in spec.metric and spec.metric not in METRICS:
        raise UnknownName("metric", spec.metric, [*METRICS, "module:function"])
    module = import_module(METRICS.get(spec.metric, CUSTOM))
    return cast(Callable[[ExportSpec], Metric], module.build)(spec)
