"""TorchScript, run by PyTorch or LibTorch without the model's Python code."""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from odedeploy import files
from odedeploy.errors import BadInput, Crashed
from odedeploy.graph import (
    Inputs,
    OdeGraph,
    batch_symbol,
    delivered_specs,
    input_specs,
    output_specs,
)
from odedeploy.manifest import TensorSpec
from odedeploy.program import Control, Plan
from odedeploy.program.control import ATOL, MAX_EVALUATIONS, OPTIONS, RTOL
from odedeploy.runtime import check_inputs, check_options

SIGNATURE = "odedeploy.signature"
"""Extra file with the names, dtypes and shapes of inputs and outputs, as JSON."""


@runtime_checkable
class Traceable(Protocol):
    """An evaluator that holds the live PyTorch model; ``example`` is a few rows of its inputs."""

    @property
    def example(self) -> Inputs: ...

    def module(self, plan: Plan) -> torch.nn.Module:
        """The model under ``plan``: inputs by position, a tuple of outputs, float32."""
        ...


class BuiltTorchScript:
    """A frozen trace with its signature."""

    def __init__(self, module: torch.jit.ScriptModule, signature: str) -> None:
        self.module = module
        self.signature = signature

    def write(self, path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
        """``metadata`` becomes TorchScript's extra files; raises BadInput as ``files`` does."""
        buffer = io.BytesIO()
        extra = {**metadata, SIGNATURE: self.signature}
        with _deprecation_silenced():
            torch.jit.save(self.module, buffer, _extra_files=extra)
        files.replace(path, _without_sources(buffer))


class TorchScriptModel:
    """A loaded TorchScript file: NumPy arrays in, NumPy arrays out, on the CPU."""

    def __init__(self, module: torch.jit.ScriptModule, metadata: Mapping[str, str]) -> None:
        self._module = module
        self.metadata = {k: v for k, v in metadata.items() if k != SIGNATURE}
        self.inputs, self.outputs, self.options = _read_signature(metadata[SIGNATURE])

    def run(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """Outputs by name; raises BadInput for inputs that do not fit, Crashed when torch fails."""
        options = check_options(inputs, self.options)
        arrays = check_inputs({n: a for n, a in inputs.items() if n not in options}, self.inputs)
        tensors = [torch.from_numpy(np.array(arrays[spec.name])) for spec in self.inputs]
        given = {name: torch.from_numpy(array) for name, array in options.items()}
        try:
            with torch.inference_mode():
                results = self._module(*tensors, **given)
        except RuntimeError as error:
            raise Crashed(f"TorchScript failed ({_line(error)}).") from error
        return {s.name: r.numpy() for s, r in zip(self.outputs, results, strict=True)}


class TorchScript:
    name = "torchscript"
    suffix = ".pt"
    forms = ("unrolled", "adaptive")

    def build(self, graph: OdeGraph, plan: Plan, form: str) -> BuiltTorchScript:
        """Traced on the example rows; step-size control is scripted around traces. Tracing warns of
        every value that it makes a constant, stage times and coefficients among them; that no input
        is one is for verification to show, on other inputs and batch sizes.

        Raises BadInput for a graph without its PyTorch model, and for another form.
        """
        live = graph.evaluator
        if not isinstance(live, Traceable):
            raise BadInput(
                "TorchScript is traced from the PyTorch model, which a graph read from a file "
                "lacks; give the model."
            )
        if form not in self.forms:
            raise BadInput(f"TorchScript holds no {form!r}, only {' and '.join(self.forms)}.")
        names = [spec.name for spec in input_specs(graph.model)]
        tensors = tuple(torch.from_numpy(np.array(live.example[name])) for name in names)
        with torch.no_grad(), _deprecation_silenced():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            if form == "adaptive":
                module = _adaptive(graph, plan, tensors)
            else:
                module = torch.jit.trace(live.module(plan).eval(), tensors, check_trace=False)
            frozen = torch.jit.freeze(module)
        return BuiltTorchScript(frozen, _write_signature(graph, plan))

    def open(self, path: str | os.PathLike[str], threads: int | None = None) -> TorchScriptModel:
        """``threads`` sets PyTorch's number of threads for the whole process.

        Raises BadInput for a file that is missing, damaged or not written by odedeploy.
        """
        if threads is not None and threads < 1:
            raise BadInput(f"threads must be at least 1, got {threads}.")
        file = Path(path)
        extra: dict[str, Any] = dict.fromkeys(_extra_names(file), "")
        if SIGNATURE not in extra:
            raise BadInput(f"{file} is not a TorchScript file of odedeploy; export it again.")
        try:
            with _deprecation_silenced():
                module = torch.jit.load(  # type: ignore[no-untyped-call]
                    str(file), map_location="cpu", _extra_files=extra
                )
        except RuntimeError as error:
            raise BadInput(
                f"{file} is not a whole TorchScript file ({_line(error)}); export it again."
            ) from error
        if threads is not None:
            torch.set_num_threads(threads)
        texts = {name: data.decode("utf-8") for name, data in extra.items()}
        return TorchScriptModel(module, texts)


def _adaptive(
    graph: OdeGraph, plan: Plan, tensors: tuple[torch.Tensor, ...]
) -> torch.jit.ScriptModule:
    """The model with its solves as scripted loops; tolerance and budget are optional arguments.

    Raises BadInput where samples cannot be told apart.
    """
    from odedeploy.formats.scripted import Adaptive, Controlled
    from odedeploy.frontends import live
    from odedeploy.frontends.segments import Before, Slope
    from odedeploy.lowering.adaptive import MIDDLE, check_times, embedded_pair, error_weights

    evaluator, control, specs = live(graph), plan.control, input_specs(graph.model)
    assert control is not None
    pair, symbol = embedded_pair(control.solver), batch_symbol(graph.model.graph)
    free = [site for site in graph.sites if site.kept is None]
    values, before, solves = list(tensors), [], []
    for place, site in enumerate(free):
        check_times(pair, site)
        parts = (evaluator, plan, graph.sites, place)
        start = Before(*parts).eval()
        initial = start(values)
        before.append(_traced(start, values))
        time = torch.zeros((), dtype=initial[0].dtype)
        slope = _traced(Slope(*parts).eval(), values + initial, time)
        epsilon = torch.finfo(initial[0].dtype).eps
        weights = error_weights(pair)
        solves.append(Controlled(slope, pair, site.times, weights, list(MIDDLE), epsilon))
        values = values + [x.expand(len(site.times), *x.shape).clone() for x in initial]
    after = Before(evaluator, plan, graph.sites, None).eval()
    batched = [spec.shape[:1] == (symbol,) for spec in specs]
    shapes = [spec.shape for spec in output_specs(graph.model)]
    if control.per_sample and not all(symbol in shape for shape in shapes):
        raise BadInput("--per-sample needs a batch axis in every output; leave it out.")
    axes = [shape.index(symbol) if symbol in shape else 0 for shape in shapes]
    whole = Adaptive(before, solves, _traced(after, values), batched, axes, control.per_sample)
    scripted = torch.jit.script(whole.eval())
    scripted.define(_forward(len(tensors), control, len(axes)))
    return scripted


def _traced(module: torch.nn.Module, *arguments: Any) -> torch.jit.ScriptModule:
    traced: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
        module, arguments, check_trace=False, strict=False
    )
    return traced


def _forward(inputs: int, control: Control, outputs: int) -> str:
    """The source of ``forward``: inputs by position, options that may be left out."""
    names = [f"x{i}" for i in range(inputs)]
    options = [f"{name}: Optional[Tensor] = None" for name in (RTOL, ATOL, MAX_EVALUATIONS)]
    tensor = ", ".join(["Tensor"] * (outputs + 2))
    results = ", ".join(f"found[{i}]" for i in range(outputs + 2))
    return f"""
def forward(self, {", ".join([*(f"{n}: Tensor" for n in names), *options])}) -> Tuple[{tensor}]:
    relative, absolute = {control.tolerance!r}, {control.tolerance!r}
    most = {control.max_evaluations}
    if {RTOL} is not None:
        relative = float({RTOL})
    if {ATOL} is not None:
        absolute = float({ATOL})
    if {MAX_EVALUATIONS} is not None:
        most = int({MAX_EVALUATIONS})
    found = self.answer([{", ".join(names)}], relative, absolute, most)
    return {results}
"""


def _without_sources(archive: io.BytesIO) -> bytes:
    """The archive without its ``.debug_pkl`` records: source lines and paths of this machine.

    Entries stay uncompressed and carry zip's first date, so that one artefact always gives
    the same bytes.
    """
    stripped = io.BytesIO()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(stripped, "w") as new:
        for entry in old.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(entry.filename), old.read(entry))
    return stripped.getvalue()


def _extra_names(file: Path) -> list[str]:
    """Names of the extra files; raises BadInput when ``file`` is no archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            parts = [name.partition("/extra/") for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{file} is no readable TorchScript file ({reason}).") from error
    return [name for _, found, name in parts if found]


def _write_signature(graph: OdeGraph, plan: Plan) -> str:
    sides = {
        "inputs": input_specs(graph.model),
        "outputs": delivered_specs(graph.model, plan),
        "options": [TensorSpec(n, d, ()) for n, d in OPTIONS] if plan.control else [],
    }
    return json.dumps(
        {side: [[s.name, s.dtype, s.shape] for s in specs] for side, specs in sides.items()}
    )


def _read_signature(text: str) -> tuple[tuple[TensorSpec, ...], ...]:
    """Inputs, outputs and options, which a file without any does not name."""
    try:
        data = {"options": [], **json.loads(text)}
        inputs, outputs, options = (
            tuple(TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in data[side])
            for side in ("inputs", "outputs", "options")
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"The file's signature is damaged ({error!r}); export it again.") from error
    return inputs, outputs, options


def _line(error: Exception) -> str:
    """The last line of PyTorch's message, which is where it says what happened."""
    return str(error).strip().splitlines()[-1].strip().rstrip(".")


@contextmanager
def _deprecation_silenced() -> Iterator[None]:
    """Without PyTorch's notice that TorchScript is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r"`torch\.jit\.\w+` is deprecated", category=DeprecationWarning
        )
        yield
