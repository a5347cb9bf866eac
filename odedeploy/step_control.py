"""A file with step-size control: run at any tolerance, and verified against the reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from odedeploy.errors import OdeDeployError
from odedeploy.formats import Runner
from odedeploy.graph import Inputs, Outcome
from odedeploy.manifest import TensorSpec
from odedeploy.program import Control
from odedeploy.program.control import ATOL, CONVERGED, EVALUATIONS, REPORTS, RTOL
from odedeploy.reference import Reference
from odedeploy.runtime import batch_first, batch_symbol
from odedeploy.tolerance import Tolerance, relative_error, worst_error
from odedeploy.verification import Verification, verify

ROWS = 128
"""Inputs of a batch."""

TIGHT = 1e-6
"""Tolerance of a step at which a file must answer like the reference."""

ALIKE = 0.1
"""Share of the tolerance that may lie between those two."""

MATES = 3
"""Inputs of a file with steps per sample that are run alone and among others."""


@dataclass(frozen=True)
class Trial:
    """Answers to n inputs: outputs, batch first, evaluations (n,) and whether they converged."""

    outputs: dict[str, np.ndarray]
    evaluations: np.ndarray
    converged: np.ndarray


class Asked:
    """A file with step-size control as a ``Runner`` of the model's own outputs alone.

    ``tolerance`` is given to it as ``rtol`` and ``atol``, None for its defaults.
    """

    def __init__(self, runner: Runner, tolerance: float | None = None) -> None:
        self._runner = runner
        self._options: Inputs = (
            {} if tolerance is None else {name: np.array(tolerance) for name in (RTOL, ATOL)}
        )
        self.inputs = runner.inputs
        self.outputs = tuple(s for s in runner.outputs if s.name not in REPORTS)
        self.metadata: Mapping[str, str] = runner.metadata
        self.facts, self.limits = runner.facts, runner.limits
        self.roundoff = runner.roundoff

    def run(self, inputs: Inputs) -> dict[str, np.ndarray]:
        outputs = self._whole(inputs)
        return {spec.name: outputs[spec.name] for spec in self.outputs}

    def try_on(self, inputs: Inputs, size: int = ROWS) -> Trial:
        """The answers to ``inputs``, ``size`` of them at a time."""
        symbol = batch_symbol(self.inputs)
        parts, counts, flags = [], [], []
        for part, rows in self._parts(inputs, size, symbol):
            outputs = self._whole(part)
            counts.append(np.broadcast_to(outputs.pop(EVALUATIONS), rows))
            flags.append(np.broadcast_to(outputs.pop(CONVERGED), rows))
            parts.append(batch_first(outputs, self.outputs, symbol))
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return Trial(whole, np.concatenate(counts), np.concatenate(flags) == 1)

    def _whole(self, inputs: Inputs) -> dict[str, np.ndarray]:
        return self._runner.run({**inputs, **self._options})

    def _parts(
        self, inputs: Inputs, size: int, symbol: str | None
    ) -> Iterator[tuple[Inputs, int]]:
        batched = {spec.name for spec in self.inputs if spec.shape[:1] == (symbol,)}
        count = max((len(inputs[name]) for name in batched), default=1)
        for first in range(0, count, size):
            part = {n: a[first : first + size] if n in batched else a for n, a in inputs.items()}
            yield part, min(size, count - first)


def trials(asked: Asked, control: Control, inputs: Inputs) -> list[Trial]:
    """The ways in which an input may be asked for: in a batch and, where that shares its steps,
    alone, which comes first."""
    together = asked.try_on(inputs)
    return [together] if control.per_sample else [asked.try_on(inputs, 1), together]


def errors_of(
    tried: Sequence[Trial], reference: Reference, rows: np.ndarray
) -> np.ndarray:
    """The worst error of every input, by the metric of ``reference``; infinite without
    convergence."""
    errors = [
        np.where(trial.converged, reference.errors(Outcome(trial.outputs, {}), rows), np.inf)
        for trial in tried
    ]
    worst: np.ndarray = np.max(errors, axis=0)
    return worst


def cost(tried: Sequence[Trial]) -> dict[str, Any]:
    """Evaluations of an input: mean and most, alone where a batch shares its steps."""
    counts = tried[0].evaluations
    return {"mean": float(np.mean(counts)), "max": int(np.max(counts))}


def verified(
    runner: Runner,
    control: Control,
    inputs: Inputs,
    reference: Reference,
    rows: np.ndarray,
    *,
    expected_inputs: Sequence[TensorSpec],
    expected_outputs: Sequence[TensorSpec],
    tol: float,
) -> Verification:
    """A file against the reference on ``rows`` of its inputs, which are ``inputs``.

    With tight steps the file must answer like the reference, whatever the batch: names, shapes and
    values as ``verification.verify`` compares them. At its defaults it has the ``error`` of the
    certificate. ``expected_outputs`` are those of the model.
    """
    names = [spec.name for spec in runner.outputs][len(expected_outputs) :]
    if names != list(REPORTS):
        lost = np.full(len(rows), np.inf)
        failure = f"The artefact's last outputs are {names}, not {list(REPORTS)}."
        return Verification((failure,), lost, lost, lost)
    whole = reference.outcome.outputs
    wanted = {
        spec.name: whole[spec.name][rows].astype(spec.dtype, copy=False)
        for spec in expected_outputs
    }
    tight = verify(
        Asked(runner, min(TIGHT, control.tolerance)), inputs, wanted, wanted,
        expected_inputs=expected_inputs, expected_outputs=expected_outputs, tol=tol,
        export_tol=max(10 * Tolerance.FLOAT32, ALIKE * tol),
    )  # fmt: skip
    asked = Asked(runner)
    try:
        tried = trials(asked, control, inputs)
    except OdeDeployError as error:
        failure = f"The artefact does not run on the inputs: {error}"
        return replace(tight, failures=(*tight.failures, failure))
    failures = [*tight.failures, *(_mates(asked, inputs, tried[0]) if control.per_sample else ())]
    return replace(
        tight,
        failures=tuple(failures),
        discretisation_error=worst_error(tried[0].outputs, wanted),
        error=errors_of(tried, reference, rows),
    )


def _mates(asked: Asked, inputs: Inputs, together: Trial) -> Iterator[str]:
    """Whether the first inputs are answered alone as among all others."""
    symbol = batch_symbol(asked.inputs)
    batched = {spec.name for spec in asked.inputs if spec.shape[:1] == (symbol,)}
    few = {n: a[:MATES] if n in batched else a for n, a in inputs.items()}
    alone = asked.try_on(few, 1)
    for name, array in alone.outputs.items():
        worst = float(relative_error(array, together.outputs[name][: len(array)], 1.0).max())
        if worst > Tolerance.FLOAT32:
            yield (
                f"The output {name!r} of an input depends on its batch: it changes by {worst:.3g}."
            )
    if (alone.evaluations != together.evaluations[: len(alone.evaluations)]).any():
        yield "The evaluations of an input depend on its batch."
