"""An exported ONNX file in onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from odedeploy.errors import BadInput, Crashed, UnknownName, Unusable
from odedeploy.manifest import TensorSpec
from odedeploy.runtime.binding import Bound
from odedeploy.runtime.container import check_container
from odedeploy.runtime.model import Artefact
from odedeploy.runtime.settings import Settings
from odedeploy.runtime.signature import UNNAMED

CPU = "CPUExecutionProvider"

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({name})": name for name in ("float16", "bool", "int8", "int16", "int32", "int64")},
    **{f"tensor({name})": name for name in ("uint8", "uint16", "uint32", "uint64")},
}
"""onnxruntime's name of a type → NumPy's."""


class Model(Artefact):
    """An ONNX file in onnxruntime, its inputs and outputs on the device of ``settings``."""

    def __init__(self, session: Any, file: Path, settings: Settings) -> None:
        self._session = session
        self.file = file
        self.inputs = tuple(_spec(value, file) for value in session.get_inputs())
        self.outputs = tuple(_spec(value, file) for value in session.get_outputs())
        self.options = tuple(_spec(v, file) for v in session.get_overridable_initializers())
        self.metadata = session.get_modelmeta().custom_metadata_map
        self.facts = {"providers": list(self.providers), "options": settings.given()}
        device = settings.device
        self._bound = device and Bound(session, device, self.inputs, self.outputs)

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers in use."""
        return tuple(self._session.get_providers())

    def answer(self, feed: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        """Raises BadInput for inputs that onnxruntime refuses, Crashed when it fails."""
        try:
            if self._bound:
                return self._bound.run(feed)
            values: Sequence[np.ndarray] = self._session.run(None, feed)
            return values
        except Exception as error:
            reason = _reason(error)
            if type(error).__name__ == "InvalidArgument" or isinstance(error, ValueError):
                raise BadInput(f"{self.file} refused its inputs ({reason}).") from error
            raise Crashed(f"onnxruntime failed on {self.file} ({reason}).") from error


def load(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Model:
    """Load an exported ONNX file.

    ``threads`` computes one operator on that many threads, by default on all cores.
    ``providers`` are onnxruntime's names of execution providers, best first, by default the CPU's
    alone; each must really be in use afterwards. ``settings`` are the fields of
    ``odedeploy.runtime.settings.Settings``.

    Raises BadInput for a file that is missing, damaged or not self-contained, UnknownName for an
    unknown provider, and Unusable when onnxruntime, one of its operators or a provider is not
    usable on this machine.
    """
    runtime = _onnxruntime()
    file = Path(path)
    if threads is not None and threads < 1:
        raise BadInput(f"threads must be at least 1, got {threads}.")
    wanted, chosen = list(providers or (CPU,)), Settings.of(settings or {})
    _check_providers(runtime, wanted)
    check_container(file)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    chosen.apply(options)
    try:
        session = runtime.InferenceSession(
            file, options, providers=chosen.of_providers(wanted), enable_fallback=0
        )
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
    return Model(session, file, chosen)


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
