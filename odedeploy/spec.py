"""What is asked for: one frozen record per request, built once and passed down whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from odedeploy.errors import BadInput, UnknownName

FORMS = ("unrolled", "loop", "adaptive")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "auto")
LOW_PRECISION = ("onnx", "openvino")
"""Formats that hold vector fields in a precision below fp32."""
METRICS = ("output", "state", "agreement")
"""Beside these a metric is a person's own function, ``module:function``."""
COVERAGE = 0.99
NOISE = ("fixed", "input")
RUNGS = ("auto", "classical", "learned", "distilled")
"""What a search may try, beside the name of a single solver."""


@dataclass(frozen=True)
class ExportSpec:
    """One export: the tolerance, how it is promised, and the shape of the artefact.

    ``tol`` bounds the error of an input by ``metric``, ``coverage`` is the share of inputs for
    which it holds and ``confidence`` how sure that is; by ``"agreement"`` it bounds the share of
    inputs that change their class, and ``coverage`` does not apply. ``tols`` are tolerances of
    single outputs (or states), by name, in place of ``tol``. ``solver`` is a catalogue name,
    ``"classical"`` for the whole catalogue, ``"learned"``, ``"distilled"``, or ``"auto"`` for all
    of that and non-uniform grids, though distilled plans only with ``allow_distilled``; ``nfe``
    fixes the number of evaluations. ``budget`` bounds the seconds of the search. ``samples`` caps
    how many of the given inputs are used. ``replan`` treats fixed-step calls as ODEs.
    ``precision`` is that of the vector fields, ``"auto"`` the one with the lowest measured
    latency. ``noise`` says what becomes of noise drawn in forward, ``"fixed"`` or ``"input"``.
    ``alarm`` adds an output that tells solves unlike those of the calibration inputs.
    ``per_sample`` gives every sample of an adaptive file steps of its own.
    ``batch`` is the one batch size that the file is for, None for any.
    ``best_effort`` writes the artefact even when the tolerance is missed.

    Raises BadInput or UnknownName for a value outside its range.
    """

    tol: float
    format: str = "onnx"
    target: str = "cpu"
    precision: str = "fp32"
    form: str = "unrolled"
    solver: str = "auto"
    nfe: int | None = None
    metric: str = "output"
    coverage: float = COVERAGE
    confidence: float = 0.95
    samples: int | None = None
    seed: int = 0
    replan: bool = False
    noise: str | None = None
    best_effort: bool = False
    tols: Mapping[str, float] = field(default_factory=dict)
    budget: float | None = None
    allow_distilled: bool = False
    alarm: bool = False
    per_sample: bool = False
    batch: int | None = None

    def __post_init__(self) -> None:
        for tol in (self.tol, *self.tols.values()):
            if not (math.isfinite(tol) and tol > 0):
                raise BadInput(f"--tol must be a positive number, got {tol}; try 1e-2.")
        self._check_metric()
        for share, name in ((self.coverage, "coverage"), (self.confidence, "confidence")):
            if not 0 < share < 1:
                raise BadInput(f"--{name} must lie between 0 and 1, got {share}; try 0.95.")
        if self.nfe is not None and self.nfe < 1:
            raise BadInput(f"--nfe must be at least 1, got {self.nfe}.")
        if self.budget is not None and not self.budget > 0:
            raise BadInput(f"--budget is in seconds and must be positive, got {self.budget}.")
        if self.samples is not None and self.samples < 3:
            raise BadInput(f"--samples must be at least 3, one a split, got {self.samples}.")
        for kind, value, known in (
            ("form", self.form, FORMS),
            ("precision", self.precision, PRECISIONS),
            ("noise", self.noise, NOISE),
        ):
            if value is not None and value not in known:
                raise UnknownName(kind, value, known)
        if self.alarm and (self.form, self.precision) != ("unrolled", "fp32"):
            raise BadInput(
                "--alarm watches a fixed number of evaluations in full precision, got the form "
                f"{self.form!r} in {self.precision}; write unrolled fp32, or leave it out."
            )
        self._check_form()

    @property
    def distils(self) -> bool:
        """Whether evaluations may have biases of their own."""
        return self.solver == "distilled" or (self.allow_distilled and self.solver == "auto")

    def _check_form(self) -> None:
        """What a form, or a format, cannot have."""
        if self.per_sample and self.form != "adaptive":
            raise BadInput(
                "--per-sample gives every sample steps of its own, which the form "
                f"{self.form!r} has not; add --form adaptive."
            )
        if self.precision != "fp32" and (
            self.form != "unrolled" or self.format not in LOW_PRECISION
        ):
            raise BadInput(
                f"Precision {self.precision} is written as unrolled {' or '.join(LOW_PRECISION)}, "
                f"not as {self.form} {self.format}; ask for fp32, or for that."
            )
        if self.batch is not None and (
            self.batch < 1
            or (self.format, self.precision, self.alarm) != ("onnx", "fp32", False)
            or self.form == "adaptive"
        ):
            raise BadInput(
                f"--batch is a positive number and fixes the batch of unrolled and loop ONNX in "
                f"fp32 without an alarm, got {self.batch} for {self.form} {self.format} in "
                f"{self.precision}; leave it out, or ask for that."
            )
        if self.form == "unrolled":
            return
        if self.solver in ("learned", "distilled") or self.allow_distilled:
            raise BadInput(
                f"The form {self.form!r} holds one step of a solver of the catalogue, and a fitted "
                "plan has none to repeat; take --solver classical, or write the unrolled form."
            )
        if self.form == "adaptive" and self.nfe is not None:
            raise BadInput(
                f"--nfe {self.nfe} fixes the evaluations, which the form 'adaptive' chooses as it "
                "runs; drop it, or write the unrolled form."
            )
        if self.form == "adaptive" and self.metric == "state":
            raise BadInput(
                "--metric state reads the final states, which the form 'adaptive' does not give; "
                "take output, or a function of the outputs."
            )

    def _check_metric(self) -> None:
        if ":" not in self.metric and self.metric not in METRICS:
            raise UnknownName("metric", self.metric, [*METRICS, "module:function"])
        if self.tols and self.metric not in ("output", "state"):
            raise BadInput(
                f"--metric {self.metric} has one tolerance for all outputs, and {list(self.tols)} "
                "got their own; give --tol once."
            )
        if self.metric == "agreement" and self.tol >= 1:
            raise BadInput(
                "--tol is the share of inputs that may change their class, below 1, got "
                f"{self.tol:g}; try 0.001."
            )
        if self.metric == "agreement" and self.coverage != COVERAGE:
            raise BadInput(
                f"--coverage {self.coverage:g} does not apply to --metric agreement, whose "
                "tolerance is itself a share of the inputs; drop it."
            )
