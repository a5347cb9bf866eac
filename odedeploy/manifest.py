"""What was delivered: the record written beside an artefact and inside its metadata."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from odedeploy.errors import BadInput


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype (NumPy's name) and shape of one input or output; a string axis is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class ErrorReport:
    """Error of the artefact against the reference over the certification inputs.

    ``bound`` is the value that at least ``coverage`` of inputs stay below with ``confidence``; it
    is None when ``samples`` inputs are too few to give one. By the metric ``agreement`` it is the
    share of inputs that change their class at the most, and ``max`` and ``median`` are of the part
    of its decision margin that an input used up, 1 where its class changed. ``violations`` counts
    the inputs beyond the tolerance, those whose class changed.
    """

    bound: float | None
    max: float
    median: float
    coverage: float
    confidence: float
    samples: int
    violations: int = 0


@dataclass(frozen=True)
class Manifest:
    """Everything a reader of the artefact needs to trust it. Fields are added, never renamed.

    ``error`` is artefact against reference by ``metric``; ``discretisation_error`` is the plan run
    in PyTorch against the reference and ``export_error`` the artefact against the plan run in
    PyTorch, both relative errors of the outputs, the largest over the certification inputs. In a
    precision below fp32, ``export_error`` is against the plan run in that precision, and
    ``quantisation_error`` is the artefact against the plan run in PyTorch in fp32.
    With step-size control ``discretisation_error`` is the artefact against the reference, and
    ``export_error`` the artefact with tight steps against the reference; ``plan`` counts the mean
    evaluations. ``tols`` are tolerances of single outputs in place of ``tol``. ``promise`` says in
    one sentence what is promised.
    """

    file: str
    format: str
    form: str
    precision: str
    target: str
    tol: float
    metric: str
    kept: bool
    promise: str
    plan: dict[str, Any]
    error: ErrorReport
    discretisation_error: float
    export_error: float
    reference: dict[str, Any]
    candidates: list[dict[str, Any]]
    seconds: dict[str, float]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    versions: dict[str, str]
    seed: int
    warnings: tuple[str, ...] = ()
    bytes: int | None = None
    sha256: str | None = None
    tols: dict[str, float] = field(default_factory=dict)
    quantisation_error: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Manifest:
        """Raises BadInput for anything that ``to_json`` did not write."""
        try:
            known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
            known["error"] = ErrorReport(**data["error"])
            for side in ("inputs", "outputs"):
                known[side] = tuple(
                    TensorSpec(s["name"], s["dtype"], tuple(s["shape"])) for s in data[side]
                )
            known["warnings"] = tuple(data.get("warnings", ()))
            return cls(**known)
        except (KeyError, TypeError) as error:
            raise BadInput(f"This is not a manifest: {error} is missing or malformed.") from error
