"""What the formats that start from the live PyTorch model have in common."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from odedeploy.errors import BadInput, Unusable

if TYPE_CHECKING:
    from odedeploy.frontends.evaluation import TorchEvaluator
    from odedeploy.graph import OdeGraph
    from odedeploy.program import Plan

COMPILERS = ("g++", "clang++", "c++")


def model_of(
    graph: OdeGraph, form: str, title: str, forms: Sequence[str] = ("unrolled",)
) -> TorchEvaluator:
    """The live model of a graph that is written in one of ``forms``; raises BadInput otherwise."""
    from odedeploy.frontends.evaluation import TorchEvaluator

    if not isinstance(graph.evaluator, TorchEvaluator):
        raise BadInput(
            f"{title} is made from the PyTorch model, which a graph read from a file lacks; give "
            "the model."
        )
    if form not in forms:
        raise BadInput(f"{title} holds no {form!r} solves, only {' and '.join(forms)}.")
    return graph.evaluator


def program_of(
    graph: OdeGraph,
    plan: Plan,
    form: str,
    title: str,
    most: int | None = None,
    rows: int | None = None,
    plain: bool = False,
) -> torch.export.ExportedProgram:
    """The exported program of ``plan``, of at most ``most`` rows or of exactly ``rows``, with
    ``plain`` sums.

    Raises BadInput for a graph without its PyTorch model, for another form, and for a model that
    cannot be traced.
    """
    from odedeploy.frontends.programs import program
    from odedeploy.frontends.tracing import Untraceable

    live = model_of(graph, form, title)
    try:
        return program(live, plan, most, rows, plain)
    except Untraceable as reason:
        raise BadInput(
            f"{title} cannot hold this model: {reason}; take the format onnx or torchscript."
        ) from reason


def check_compiler(what: str) -> None:
    """Raises Unusable where there is no C++ compiler."""
    asked = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ([asked] if asked else COMPILERS)):
        raise Unusable(
            f"{what} needs a C++ compiler, and there is no {asked or ' or '.join(COMPILERS)}; "
            "install g++, or name one in CXX."
        )


def use_threads(threads: int | None) -> None:
    """Sets PyTorch's number of threads, for the whole process."""
    if threads is not None:
        torch.set_num_threads(threads)
