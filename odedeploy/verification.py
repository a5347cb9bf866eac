"""An artefact against what was exported: signature, batching, values; every failure collected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from odedeploy.errors import OdeDeployError
from odedeploy.formats import Runner
from odedeploy.manifest import TensorSpec
from odedeploy.runtime import Arrays, Golden, batch_first, batch_symbol
from odedeploy.runtime import GoldenCheck as GoldenCheck
from odedeploy.runtime import check_golden as check_golden
from odedeploy.tolerance import Tolerance, floor_of, relative_error, worst_error

ROWS = 128
"""Inputs run at a time."""

OTHER_BATCH = 3
"""A batch size between one and ``ROWS`` at which answers are compared."""


@dataclass(frozen=True)
class Verification:
    """What a verification found; true when nothing failed.

    ``failures`` are sentences in the order names, dtypes, shapes, dynamic axes, values.
    Errors are relative, one per input, shape (batch,), inf where an output could not be compared:
    ``discretisation_error`` of the plan run in PyTorch against the reference, ``export_error`` of
    the artefact against the plan run in PyTorch, ``error`` of the artefact against the reference.
    """

    failures: tuple[str, ...]
    discretisation_error: np.ndarray
    export_error: np.ndarray
    error: np.ndarray

    def __bool__(self) -> bool:
        return not self.failures


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
) -> Verification:
    """Run the artefact on ``inputs`` and compare it with the model that it was made from.

    The outputs of the plan in PyTorch and of the reference are on the same inputs, in the layout
    of ``expected_outputs``. The artefact fails where names, dtypes, shapes or dynamic axes differ,
    where an input's answer depends on the size of its batch or on the other inputs in it, and
    where it differs from the plan in PyTorch by more than ``export_tol``. ``tol`` is the tolerance
    of the solve, for which the plan is certified; here it is only named beside a failure. A
    runtime that refuses the inputs or fails on them is a failure too.
    """
    symbol = batch_symbol(expected_inputs)
    torch_first = batch_first(torch_outputs, expected_outputs, symbol)
    reference_first = batch_first(reference_outputs, expected_outputs, symbol)
    discretisation = worst_error(torch_first, reference_first)
    lost = np.full(discretisation.shape, np.inf)
    failures = [
        *_signature_failures("input", runner.inputs, expected_inputs),
        *_signature_failures("output", runner.outputs, expected_outputs),
    ]
    try:
        found = _in_parts(runner, inputs, expected_inputs, expected_outputs, len(lost))
        failures += _array_failures(found, torch_first)
        if symbol is not None:
            failures += _batch_failures(
                runner, inputs, expected_inputs, expected_outputs, found, export_tol
            )
    except OdeDeployError as error:
        failures.append(f"The artefact does not run on the inputs: {error}")
        return Verification(tuple(failures), discretisation, lost, lost)
    if _layout(found) != _layout(torch_first):
        return Verification(tuple(failures), discretisation, lost, lost)
    failures += _value_failures(found, torch_first, tol, export_tol)
    return Verification(
        tuple(failures),
        discretisation,
        worst_error(found, torch_first),
        worst_error(found, reference_first),
    )


def golden(runner: Runner, inputs: Arrays, k: int = 4) -> Golden:
    """The first ``k`` of ``inputs`` with the artefact's outputs, to travel in its metadata.

    Another machine may differ by ten times what two float32 computations of one plan may: kernels
    and fused operations are chosen by the processor.
    """
    batch = {spec.name: spec.shape[:1] for spec in runner.inputs}
    chosen = {
        name: array[:k] if batch[name] and isinstance(batch[name][0], str) else array
        for name, array in inputs.items()
    }
    return Golden(chosen, runner.run(chosen), 10 * Tolerance.FLOAT32)


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
    for name in found.keys() ^ expected.keys():
        yield f"The output {name!r} is given by {'the artefact' if name in found else 'PyTorch'} only."
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
    runner: Runner,
    inputs: Arrays,
    expected_inputs: Sequence[TensorSpec],
    expected_outputs: Sequence[TensorSpec],
    found: Arrays,
    tolerance: float,
) -> Iterator[str]:
    """The first inputs alone and in a batch of another size and order, against ``found``."""
    rows = len(next(iter(found.values())))
    alone = np.array([0])
    others = np.resize(np.arange(rows)[::-1], OTHER_BATCH if rows != OTHER_BATCH else 2)
    mixed = np.concatenate([others[:-1], alone])
    for chosen in (alone, mixed):
        try:
            outputs = _rows(runner, inputs, expected_inputs, expected_outputs, chosen)
        except OdeDeployError as error:
            yield f"The artefact does not run at batch size {len(chosen)}: {error}"
            continue
        for name, array in outputs.items():
            ref = found[name][chosen]
            if array.shape != ref.shape:
                yield f"At batch size {len(chosen)} the output {name!r} has shape {array.shape}."
                continue
            errors = relative_error(array, ref, floor_of(found[name]))
            if errors.max() > tolerance:
                yield (
                    f"The output {name!r} of input {chosen[errors.argmax()]} changes by "
                    f"{errors.max():.3g} in a batch of {len(chosen)} other inputs, "
                    f"tolerance {tolerance:.3g}."
                )


def _value_failures(
    found: Arrays, expected: Arrays, tol: float, export_tol: float
) -> Iterator[str]:
    for name, ref in expected.items():
        errors = relative_error(found[name], ref, floor_of(ref))
        row = int(errors.argmax())
        if errors[row] > export_tol:
            apart = np.abs(found[name][row].astype(np.float64) - ref[row].astype(np.float64))
            place = np.unravel_index(int(apart.argmax()), apart.shape)
            yield (
                f"The output {name!r} differs from the plan run in PyTorch by {errors[row]:.3g} "
                f"on input {row}, most at {tuple(map(int, place))} by {apart.max():.3g} "
                f"(export tolerance {export_tol:.3g}, tolerance of the solve {tol:.3g})."
            )


def _in_parts(
    runner: Runner,
    inputs: Arrays,
    expected_inputs: Sequence[TensorSpec],
    expected_outputs: Sequence[TensorSpec],
    count: int,
) -> dict[str, np.ndarray]:
    """Outputs on all ``count`` inputs, batch first."""
    size = ROWS if batch_symbol(expected_inputs) is not None else count
    parts = [
        _rows(runner, inputs, expected_inputs, expected_outputs, np.arange(i, min(i + size, count)))
        for i in range(0, count, size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows(
    runner: Runner,
    inputs: Arrays,
    expected_inputs: Sequence[TensorSpec],
    expected_outputs: Sequence[TensorSpec],
    rows: np.ndarray,
) -> dict[str, np.ndarray]:
    """Outputs on the inputs ``rows``, batch first; inputs without a batch axis are passed whole."""
    symbol = batch_symbol(expected_inputs)
    batched = {s.name for s in expected_inputs if s.shape and s.shape[0] == symbol}
    chosen = {name: array[rows] if name in batched else array for name, array in inputs.items()}
    return batch_first(runner.run(chosen), expected_outputs, symbol)


def _layout(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}
