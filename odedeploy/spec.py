"""What is asked for: one frozen record per request, built once and passed down whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

from odedeploy.errors import BadInput, UnknownName

FORMS = ("unrolled", "loop")
PRECISIONS = ("fp32",)
METRICS = ("output",)
NOISE = ("fixed", "input")


@dataclass(frozen=True)
class ExportSpec:
    """One export: the tolerance, how it is promised, and the shape of the artefact.

    ``tol`` bounds the relative error of an input, ``coverage`` is the share of inputs for which it
    holds and ``confidence`` how sure that is. ``solver`` is ``"auto"`` or a catalogue name and
    ``nfe`` fixes the number of evaluations; both together leave nothing to search. ``samples``
    caps how many of the given inputs are used. ``replan`` treats fixed-step calls as ODEs.
    ``noise`` says what becomes of noise drawn in forward, ``"fixed"`` or ``"input"``.
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
    coverage: float = 0.99
    confidence: float = 0.95
    samples: int | None = None
    seed: int = 0
    replan: bool = False
    noise: str | None = None
    best_effort: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tol) and self.tol > 0):
            raise BadInput(f"--tol must be a positive number, got {self.tol}; try 1e-2.")
        for share, name in ((self.coverage, "coverage"), (self.confidence, "confidence")):
            if not 0 < share < 1:
                raise BadInput(f"--{name} must lie between 0 and 1, got {share}; try 0.95.")
        if self.nfe is not None and self.nfe < 1:
            raise BadInput(f"--nfe must be at least 1, got {self.nfe}.")
        if self.samples is not None and self.samples < 3:
            raise BadInput(f"--samples must be at least 3, one a split, got {self.samples}.")
        for kind, value, known in (
            ("form", self.form, FORMS),
            ("precision", self.precision, PRECISIONS),
            ("metric", self.metric, METRICS),
            ("noise", self.noise, NOISE),
        ):
            if value is not None and value not in known:
                raise UnknownName(kind, value, known)
