"""``odedeploy export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from odedeploy.cli import output
from odedeploy.cli.options import (
    Alarm,
    AllowDistilled,
    Batch,
    BestEffort,
    Budget,
    Confidence,
    Coverage,
    Inputs,
    Json,
    Metric,
    Model,
    Noise,
    PerSample,
    Replan,
    Samples,
    Seed,
    Static,
    Tol,
    Weights,
    tolerances,
)
from odedeploy.errors import Unusable
from odedeploy.spec import RUNGS, ExportSpec


def export(
    model: Model,
    tol: Tol,
    path: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")
    ],
    weights: Weights = None,
    inputs: Inputs = None,
    static: Static = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="onnx, torchscript, pt2, aoti, openvino, executorch or litert; by default what "
            "FILE ends in.", metavar="NAME",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What it will run on: one of `odedeploy targets`, a TOML file, or auto, the "
            "fastest here; by default what runs the format.",
        ),
    ] = None,
    precision: Annotated[str, typer.Option(metavar="NAME", help="Arithmetic.")] = "fp32",
    form: Annotated[
        str,
        typer.Option(metavar="NAME", help="How the solve is written: unrolled, loop or adaptive."),
    ] = "unrolled",
    solver: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="auto, classical, learned, distilled, or one of `odedeploy solvers`.",
        ),
    ] = "auto",
    per_sample: PerSample = False,
    batch: Batch = None,
    nfe: Annotated[
        int | None, typer.Option(help="Exactly this many evaluations of the vector field.")
    ] = None,
    budget: Budget = None,
    allow_distilled: AllowDistilled = False,
    metric: Metric = "output",
    coverage: Coverage = 0.99,
    confidence: Confidence = 0.95,
    samples: Samples = None,
    seed: Seed = 0,
    replan: Replan = False,
    noise: Noise = None,
    alarm: Alarm = False,
    best_effort: BestEffort = False,
    as_json: Json = False,
) -> None:
    """Write MODEL as one file that keeps a tolerance.

    The file holds the cheapest fixed-step solve whose error is certified on held-out inputs, or,
    with --form adaptive, an embedded pair with the loosest tolerance that is.

    Nothing is written when no plan keeps it, unless --best-effort is given.
    """
    whole, own = tolerances(tol)
    kind = _format(format, path, target)
    spec = ExportSpec(
        tol=whole, tols=own, format=kind, target=_target(target, kind), precision=precision,
        form=form, solver=solver, nfe=nfe, metric=metric, coverage=coverage, confidence=confidence,
        samples=samples, seed=seed, budget=budget, allow_distilled=allow_distilled,
        replan=replan, noise=noise, alarm=alarm, best_effort=best_effort,
        per_sample=per_sample, batch=batch,
    )  # fmt: skip
    _check_names(spec)
    with output.working() as progress:
        progress("loading", 0, 0)
        from odedeploy import api

        loaded = api.load_model(model, weights, inputs, tuple(static or ()))
        if short := api.foreseen(loaded, spec):
            output.warn(short)
        manifest = api.deploy(loaded, spec, path, progress)
    for warning in manifest.warnings:
        output.warn(warning)
    if as_json:
        output.emit(manifest.to_json())
        return
    from odedeploy.cli import summary

    written = path.with_name(manifest.file)
    output.show(
        *summary.of(manifest),
        f"\nWrote {written} and {written}.json. Next, where it will run: "
        f"odedeploy verify {written}",
    )


def _format(asked: str | None, path: Path, target: str | None) -> str:
    from odedeploy import formats

    if asked is not None:
        return formats.find(asked).name
    if target == "auto" and not path.name.lower().endswith(tuple(formats.SUFFIXES)):
        return "auto"
    return formats.from_path(path).name


def _target(asked: str | None, format: str) -> str:
    """The first target that takes the format, unless another is asked for."""
    from odedeploy import targets

    takes = (name for name in targets.TARGETS if targets.find(name).format == format)
    return asked or next(takes, ExportSpec.target)


def _check_names(spec: ExportSpec) -> None:
    """Names that no table holds are refused before anything is loaded."""
    from odedeploy import solvers, targets

    if spec.solver not in RUNGS:
        solvers.find(spec.solver)
    if spec.target == "auto":
        return
    if problem := targets.usable(targets.find(spec.target)):
        raise Unusable(problem)
