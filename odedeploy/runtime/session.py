"""An exported ONNX file, loaded and called."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from odedeploy.errors import BadInput, Crashed, UnknownName, Unusable
from odedeploy.manifest import Manifest, TensorSpec
from odedeploy.runtime.container import check_container
from odedeploy.runtime.metadata import Golden, alarm_output, read_golden, read_manifest
from odedeploy.runtime.options import check_options, warn_of_options
from odedeploy.runtime.signature import UNNAMED, check_inputs

CPU = "CPUExecutionProvider"

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({name})": name for name in ("float16", "bool", "int8", "int16", "int32", "int64")},
    **{f"tensor({name})": name for name in ("uint8", "uint16", "uint32", "uint64")},
}
"""onnxruntime's name of a type → NumPy's."""


class Model:
    """A loaded artefact: ``model(x)``, ``model(x, y)`` or ``model(image=x)``.

    Made by ``load``. Inputs are NumPy arrays of exactly the dtypes and shapes in ``inputs``.
    ``options`` are inputs that may be left out, single numbers: ``model(x, steps=32)``.
    """

    def __init__(self, session: Any, file: Path) -> None:
        self._session = session
        self.file = file
        self.inputs = tuple(_spec(value, file) for value in session.get_inputs())
        self.outputs = tuple(_spec(value, file) for value in session.get_outputs())
        self.options = tuple(_spec(v, file) for v in session.get_overridable_initializers())
        self.metadata: Mapping[str, str] = session.get_modelmeta().custom_metadata_map

    @cached_property
    def manifest(self) -> Manifest | None:
        """What was delivered; None for a file that odedeploy did not write."""
        return read_manifest(self.metadata)

    @cached_property
    def golden(self) -> Golden | None:
        """Inputs with their outputs on the machine of the export, or None."""
        return read_golden(self.metadata)

    @cached_property
    def alarm(self) -> str | None:
        """The output (batch,), above 1 where a solve goes unlike its calibration, or None."""
        return alarm_output(self.metadata)

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers in use."""
        return tuple(self._session.get_providers())

    def __call__(self, *arrays: Any, **named: Any) -> np.ndarray | dict[str, np.ndarray]:
        """The output of a model with one, else the outputs by name; raises as ``run`` does."""
        names = [spec.name for spec in self.inputs]
        if len(arrays) > len(names):
            raise BadInput(f"The model takes the {len(names)} inputs {names}, got {len(arrays)}.")
        positional = dict(zip(names, arrays, strict=False))
        twice = sorted(positional.keys() & named.keys())
        if twice:
            raise BadInput(f"The inputs {twice} are given by position and by name; give them once.")
        outputs = self.run(positional | named)
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def run(self, inputs: Mapping[str, Any], *, check: bool = True) -> dict[str, np.ndarray]:
        """Outputs by name.

        With ``check`` false the arrays go to onnxruntime as they are, NaN and infinity included.
        Warns of a number of steps or a tolerance for which the file is not certified.

        Raises BadInput for inputs that do not fit and Crashed when onnxruntime fails.
        """
        feed = self._checked(inputs) if check else dict(inputs)
        try:
            values = self._session.run(None, feed)
        except Exception as error:
            reason = _reason(error)
            if type(error).__name__ == "InvalidArgument" or isinstance(error, ValueError):
                raise BadInput(f"{self.file} refused its inputs ({reason}).") from error
            raise Crashed(f"onnxruntime failed on {self.file} ({reason}).") from error
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}


    def _checked(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        options = check_options(inputs, self.options)
        if options:
            warn_of_options(options, self.manifest)
        rest = {name: value for name, value in inputs.items() if name not in options}
        return check_inputs(rest, self.inputs) | options


def load(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
) -> Model:
    """Load an exported ONNX file.

    ``threads`` computes one operator on that many threads, by default on all cores.
    ``providers`` are onnxruntime's names of execution providers, best first, by default the CPU's
    alone; each must really be in use afterwards.

    Raises BadInput for a file that is missing, damaged or not self-contained, UnknownName for an
    unknown provider, and Unusable when onnxruntime, one of its operators or a provider is not
    usable on this machine.
    """
    runtime = _onnxruntime()
    file = Path(path)
    if threads is not None and threads < 1:
        raise BadInput(f"threads must be at least 1, got {threads}.")
    wanted = list(providers or (CPU,))
    _check_providers(runtime, wanted)
    check_container(file)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        session = runtime.InferenceSession(file, options, providers=wanted, enable_fallback=0)
    except Exception as error:
        reason = _reason(error)
        if type(error).__name__ in ("NotImplemented", "EPFail"):
            raise Unusable(
                f"{file} does not run in onnxruntime {runtime.__version__} ({reason}); "
                "update onnxruntime."
            ) from error
        raise BadInput(
            f"{file} is not a model that onnxruntime {runtime.__version__} can load ({reason}); "
            "export it again."
        ) from error
    _check_in_use(session.get_providers(), wanted)
    return Model(session, file)


def _onnxruntime() -> ModuleType:
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise Unusable(
            f"onnxruntime is not usable here ({error}); pip install odedeploy[cpu]."
        ) from error


def _check_providers(runtime: ModuleType, wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in runtime.get_all_providers():
            raise UnknownName("execution provider", name, runtime.get_all_providers())
    _check_in_use(runtime.get_available_providers(), wanted)


def _check_in_use(present: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        raise Unusable(
            f"onnxruntime cannot use {', '.join(missing)} here, only {', '.join(present)}; "
            "install the onnxruntime and the drivers that it needs."
        )


def _spec(value: Any, file: Path) -> TensorSpec:
    if value.type not in _DTYPES:
        raise BadInput(
            f"{file}: {value.name!r} is a {value.type}, which has no NumPy array; "
            "export it with numeric inputs and outputs."
        )
    shape = tuple(UNNAMED if axis is None else axis for axis in value.shape)
    return TensorSpec(value.name, _DTYPES[value.type], shape)


def _reason(error: Exception) -> str:
    """What onnxruntime says, on one line, without its error code."""
    return " ".join(str(error).rpartition(" : ")[2].split()).rstrip(".")
