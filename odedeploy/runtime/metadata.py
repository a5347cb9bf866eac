"""What travels inside an artefact: its manifest, its ODE graph and its golden inputs."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from odedeploy.errors import BadInput
from odedeploy.manifest import Manifest, TensorSpec
from odedeploy.runtime.arrays import pack_arrays, unpack_arrays
from odedeploy.runtime.signature import Arrays, batch_first, batch_symbol
from odedeploy.tolerance import floor_of, worst_error

MANIFEST = "odedeploy.manifest"
"""JSON of the Manifest, without ``bytes`` and ``sha256``, which a file cannot say of itself."""
GRAPH = "odedeploy.graph"
"""The ODE graph's structure, as text."""
GOLDEN = "odedeploy.golden"
"""Base64 of an .npz: ``in.<name>``, ``out.<name>``, ``tolerance`` and, of an alarm,
``floor.<name>``."""

MONITOR_FLOOR = 100.0
"""Least denominator of the relative error of an alarm, whose threshold is 1: it is made of
differences of slopes, which magnify round-off."""


class Runs(Protocol):
    """Anything that runs an artefact."""

    @property
    def inputs(self) -> Sequence[TensorSpec]: ...
    @property
    def outputs(self) -> Sequence[TensorSpec]: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...
    def run(self, inputs: Arrays) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Golden:
    """Inputs with the outputs that the artefact gave where it was exported.

    ``tolerance`` is the largest relative error of an input that another machine may show, and
    ``floors`` are the least denominators of outputs that have one of their own.
    """

    inputs: Arrays
    outputs: Arrays
    tolerance: float
    floors: Mapping[str, float] = field(default_factory=dict)

    def pack(self) -> str:
        """The text under ``GOLDEN``."""
        arrays: dict[str, np.ndarray] = {f"in.{name}": array for name, array in self.inputs.items()}
        arrays |= {f"out.{name}": array for name, array in self.outputs.items()}
        arrays |= {f"floor.{name}": np.asarray(floor) for name, floor in self.floors.items()}
        packed = pack_arrays({"tolerance": np.asarray(self.tolerance), **arrays})
        return base64.b64encode(packed).decode("ascii")

    @classmethod
    def unpack(cls, text: str) -> Golden:
        """Raises BadInput for anything that ``pack`` did not write."""
        try:
            arrays = unpack_arrays(io.BytesIO(base64.b64decode(text, validate=True)))
            if not isinstance(arrays, dict):
                raise ValueError("one array without a name")
            tolerance = float(arrays.pop("tolerance"))
            floors = {
                name.removeprefix("floor."): float(array)
                for name, array in arrays.items() if name.startswith("floor.")
            }  # fmt: skip
        except (ValueError, TypeError, KeyError) as error:
            raise BadInput(
                f"The golden inputs in the file are damaged ({error}); export it again."
            ) from error
        inputs, outputs = (
            {n.removeprefix(side): a for n, a in arrays.items() if n.startswith(side)}
            for side in ("in.", "out.")
        )
        return cls(inputs, outputs, tolerance, floors)


@dataclass(frozen=True)
class GoldenCheck:
    """Relative error of each golden input, shape (k,); true when all are within ``tolerance``."""

    errors: np.ndarray
    tolerance: float

    def __bool__(self) -> bool:
        return bool((self.errors <= self.tolerance).all())

    def __str__(self) -> str:
        verdict = "within" if self else "above"
        return (
            f"{len(self.errors)} golden inputs: largest error {self.errors.max():.3g}, "
            f"{verdict} {self.tolerance:.3g}"
        )


def read_manifest(metadata: Mapping[str, str]) -> Manifest | None:
    """None when there is none; raises BadInput when it is damaged."""
    text = metadata.get(MANIFEST)
    if text is None:
        return None
    try:
        data = json.loads(text)
    except ValueError as error:
        raise BadInput(
            f"The manifest in the file is damaged ({error}); export it again."
        ) from error
    return Manifest.from_json(data)


def alarm_output(metadata: Mapping[str, str]) -> str | None:
    """The name of the alarm among the outputs; None for a file without one."""
    manifest = read_manifest(metadata)
    alarm = None if manifest is None else manifest.extra.get("alarm")
    return None if alarm is None else str(alarm["output"])


def read_golden(metadata: Mapping[str, str]) -> Golden | None:
    """None when there are none; raises BadInput when they are damaged."""
    text = metadata.get(GOLDEN)
    return None if text is None else Golden.unpack(text)


def check_golden(runner: Runs) -> GoldenCheck:
    """Run the golden inputs of an artefact here; raises BadInput when it holds none.

    Outputs that the golden ones leave out are not compared.
    """
    golden = read_golden(runner.metadata)
    if golden is None:
        raise BadInput("The file holds no golden inputs; export it with odedeploy.")
    symbol = batch_symbol(runner.inputs)
    found = runner.run(golden.inputs)
    given, expected = (
        batch_first(outputs, runner.outputs, symbol)
        for outputs in ({n: found[n] for n in golden.outputs if n in found}, golden.outputs)
    )
    floors = {name: golden.floors.get(name, floor_of(a)) for name, a in expected.items()}
    return GoldenCheck(worst_error(given, expected, floors), golden.tolerance)
