"""An artefact against what was exported: signature, batching, values; every failure collected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from odedeploy.errors import OdeDeployError
from odedeploy.formats import Runner
from odedeploy.manifest import TensorSpec
from odedeploy.runtime import MONITOR_FLOOR, Arrays, Golden, batch_first, batch_symbol
from odedeploy.runtime import GoldenCheck as GoldenCheck
from odedeploy.runtime import check_golden as check_golden
from odedeploy.tolerance import Tolerance, floor_of, relative_error, worst_error

ROWS = 128
"""Inputs run at a time."""

Errors = Callable[[Arrays], np.ndarray]
"""Outputs → the error of every input, shape (batch,)."""

OTHER_BATCH = 3
"""A batch size between one and ``ROWS`` at which answers are compared."""


GOLDEN_INPUTS = 4
"""Inputs that travel in a file."""


@dataclass(frozen=True)
class Verification:
    """What a verification found; true when nothing failed.

    ``failures`` are sentences in the order names, dtypes, shapes, dynamic axes, values.
    Errors are relative, one per input, shape (batch,), inf where an output could not be compared:
    ``discretisation_error`` of the plan run in PyTorch against the reference, ``export_error`` of
    the artefact against the plan run in PyTorch, ``error`` of the artefact against the reference,
    by the metric that was given. ``quantisation_error`` is of the plan in a lower precision
    against the plan in fp32, None in fp32.
    """

    failures: tuple[str, ...]
    discretisation_error: np.ndarray
    export_error: np.ndarray
    error: np.ndarray
    quantisation_error: np.ndarray | None = None

    def __bool__(self) -> bool:
        return not self.failures


@dataclass(frozen=True)
class _Subject:
    """The artefact on given inputs; its outputs come batch first."""

    runner: Runner
    inputs: Arrays
    batched: frozenset[str]
    outputs: Sequence[TensorSpec]
    symbol: str | None

    def rows(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs on the inputs ``chosen``; inputs without a batch axis are passed whole."""
        given = {n: a[chosen] if n in self.batched else a for n, a in self.inputs.items()}
        return batch_first(self.runner.run(given), self.outputs, self.symbol)

    def all(self, count: int) -> dict[str, np.ndarray]:
        """Outputs on all ``count`` inputs, ``ROWS`` at a time where the batch is dynamic."""
        size = count if self.symbol is None else ROWS
        parts = [self.rows(np.arange(i, min(i + size, count))) for i in range(0, count, size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def verify(
    runner: Runner,
    inputs: Arrays,
    torch_outputs: Arrays,
    reference_outputs: Arrays,
    *,
    expected_inputs: Sequence[TensorSpec],
    expected_outputs: Sequence[TensorSpec],
    tol: float,
    export_tol: float = Tolerance.FLOAT32,
    metric: Errors | None = None,
    monitors: Arrays | None = None,
) -> Verification:
    """Run the artefact on ``inputs`` and compare it with the model that it was made from.

    The outputs of the plan in PyTorch and of the reference are on the same inputs and batch first,
    as evaluators give them; ``expected_outputs`` says where the model has its batch.

    The artefact fails where names, dtypes, shapes or dynamic axes differ, where an input's answer
    depends on the size of its batch or on the other inputs in it, where it differs from the plan
    in PyTorch by more than ``export_tol``, and where its runtime refuses the inputs or fails on
    them. ``tol`` is the tolerance of the solve, for which the plan is certified; here it is only
    named beside a failure. ``metric`` gives the errors of the artefact's outputs against the
    reference, the relative error unless another is given. ``monitors`` are what the plan adds to
    the outputs of the model, in PyTorch; they are no part of the errors.

    Raises BadInput when the two sets of outputs cannot be compared with each other.
    """
    discretisation = worst_error(torch_outputs, reference_outputs)
    expected = {**torch_outputs, **(monitors or {})}
    floors = {name: floor_of(array) for name, array in torch_outputs.items()}
    floors |= dict.fromkeys(monitors or {}, MONITOR_FLOOR)
    failures = [
        *_signature_failures("input", runner.inputs, expected_inputs),
        *_signature_failures("output", runner.outputs, expected_outputs),
    ]
    symbol = batch_symbol(expected_inputs)
    batched = frozenset(s.name for s in expected_inputs if s.shape and s.shape[0] == symbol)
    subject = _Subject(runner, inputs, batched, expected_outputs, symbol)
    found, broken = _answers(subject, len(discretisation), expected, floors, export_tol)
    failures += broken
    if found is None:
        lost = np.full(discretisation.shape, np.inf)
        return Verification(tuple(failures), discretisation, lost, lost)
    failures += _value_failures(found, expected, floors, tol, export_tol)
    found = {name: found[name] for name in torch_outputs}
    return Verification(
        tuple(failures),
        discretisation,
        worst_error(found, torch_outputs),
        worst_error(found, reference_outputs) if metric is None else metric(found),
    )


def _answers(
    subject: _Subject, rows: int, expected: Arrays, floors: dict[str, float], export_tol: float
) -> tuple[Arrays | None, list[str]]:
    """The artefact's answers where they can be compared, and what is wrong with them so far."""
    failures: list[str] = []
    try:
        found = subject.all(rows)
        failures += _array_failures(found, expected)
        if subject.symbol is not None:
            failures += _batch_failures(subject, found, floors, export_tol)
    except OdeDeployError as error:
        return None, [*failures, f"The artefact does not run on the inputs: {error}"]
    return (found if _layout(found) == _layout(expected) else None), failures


def golden(
    runner: Runner,
    inputs: Arrays,
    k: int = GOLDEN_INPUTS,
    tolerance: float = 10 * Tolerance.FLOAT32,
    monitors: Iterable[str] = (),
) -> Golden:
    """The first ``k`` of ``inputs`` with the artefact's outputs, to travel in its metadata.

    Another machine may differ by ten times what two float32 computations of one plan may: kernels
    and fused operations are chosen by the processor. ``monitors`` are names of outputs that the
    plan adds to those of the model.
    """
    batch = {spec.name: spec.shape[:1] for spec in runner.inputs}
    chosen = {
        name: array[:k] if batch[name] and isinstance(batch[name][0], str) else array
        for name, array in inputs.items()
    }
    return Golden(chosen, runner.run(chosen), tolerance, dict.fromkeys(monitors, MONITOR_FLOOR))


def _signature_failures(
    side: str, found: Sequence[TensorSpec], expected: Sequence[TensorSpec]
) -> Iterator[str]:
    """Names and their order, then dtypes, shapes and dynamic axes of the names in common."""
    names, wanted = [s.name for s in found], [s.name for s in expected]
    if names != wanted:
        yield f"The artefact's {side}s are {names}, the model's {wanted}."
    specs = {spec.name: spec for spec in found}
    pairs = [(specs[spec.name], spec) for spec in expected if spec.name in specs]
    for is_, want in pairs:
        if is_.dtype != want.dtype:
            yield f"The {side} {want.name!r} is {is_.dtype}, in the model {want.dtype}."
    for is_, want in pairs:
        if len(is_.shape) != len(want.shape) or any(
            isinstance(a, int) and isinstance(b, int) and a != b
            for a, b in zip(is_.shape, want.shape, strict=False)
        ):
            yield f"The {side} {want.name!r} has shape {is_.shape}, in the model {want.shape}."
    for is_, want in pairs:
        for axis, (a, b) in enumerate(zip(is_.shape, want.shape, strict=False)):
            if isinstance(a, int) and isinstance(b, str):
                yield f"Axis {axis} of the {side} {want.name!r} is fixed to {a}, not {b!r}."


def _array_failures(found: Arrays, expected: Arrays) -> Iterator[str]:
    """What the arrays themselves show, whatever the file declares of them."""
    for name in sorted(found.keys() ^ expected.keys()):
        giver = "the artefact" if name in found else "PyTorch"
        yield f"The output {name!r} is given by {giver} only."
    common = [name for name in expected if name in found]
    for name in common:
        if found[name].dtype != expected[name].dtype:
            yield (
                f"The output {name!r} came as {found[name].dtype}, from PyTorch as "
                f"{expected[name].dtype}."
            )
    for name in common:
        if found[name].shape != expected[name].shape:
            yield (
                f"The output {name!r} came with shape {found[name].shape}, from PyTorch with "
                f"{expected[name].shape}, batch first."
            )


def _batch_failures(
    subject: _Subject, found: Arrays, floors: Mapping[str, float], tolerance: float
) -> Iterator[str]:
    """The first input alone, and last in a batch of another size, against ``found``."""
    count = len(next(iter(found.values())))
    size = OTHER_BATCH if count != OTHER_BATCH else OTHER_BATCH - 1
    mates = np.resize(np.arange(count)[::-1], size - 1)
    for rows in (np.array([0]), np.append(mates, 0)):
        try:
            outputs = subject.rows(rows)
        except OdeDeployError as error:
            yield f"The artefact does not run at batch size {len(rows)}: {error}"
            continue
        for name, array in outputs.items():
            ref = found[name][rows]
            if array.shape != ref.shape:
                yield f"At batch size {len(rows)} the output {name!r} has shape {array.shape}."
                continue
            errors = relative_error(array, ref, floors.get(name, 1.0))
            row = int(errors.argmax())
            if errors[row] > tolerance:
                yield (
                    f"The output {name!r} of input {rows[row]} depends on its batch: it changes by "
                    f"{errors[row]:.3g} in a batch of {len(rows)} (tolerance {tolerance:.3g})."
                )


def _value_failures(
    found: Arrays, expected: Arrays, floors: Mapping[str, float], tol: float, export_tol: float
) -> Iterator[str]:
    for name, ref in expected.items():
        errors = relative_error(found[name], ref, floors[name])
        row = int(errors.argmax())
        if errors[row] > export_tol:
            apart = np.abs(found[name][row].astype(np.float64) - ref[row].astype(np.float64))
            place = np.unravel_index(int(apart.argmax()), apart.shape)
            yield (
                f"The output {name!r} differs from the plan run in PyTorch by {errors[row]:.3g} "
                f"on input {row}, most at {tuple(map(int, place))} by {apart.max():.3g} "
                f"(export tolerance {export_tol:.3g}, tolerance of the solve {tol:.3g})."
            )


def _layout(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}
