"""What a sweep is asked for, and the commands that make single files of it."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from odedeploy import files, formats
from odedeploy._version import __version__
from odedeploy.errors import BadInput, OdeDeployError, UnknownName
from odedeploy.frontends.loading import Loaded
from odedeploy.profiling import machine
from odedeploy.spec import ExportSpec
from odedeploy.targets import Target
from odedeploy.targets import find as find_target

VARIED = ("tol", "precision", "form", "format", "target")
"""Fields of a spec that a sweep goes through."""


@dataclass(frozen=True)
class Cell:
    """One artefact that a sweep asks for. ``problem`` says why no spec can ask for it; ``tol``,
    ``precision`` and ``form`` are what was asked then."""

    target: Target
    tol: float
    precision: str
    form: str
    spec: ExportSpec | None
    problem: str = ""


@dataclass(frozen=True)
class Request:
    """Every model at each tolerance, precision and form, on each target at each batch size.

    ``models`` are models or exported files, which are measured as they are. ``batches`` may be
    empty for the batch of each target. ``spec`` holds the wishes that all have in common.

    Raises UnknownName for a target that no table holds, and BadInput for nothing to measure.
    """

    models: Sequence[Loaded | Path]
    tols: Sequence[float]
    targets: Sequence[str]
    precisions: Sequence[str] = ("fp32",)
    forms: Sequence[str] = ("unrolled",)
    batches: Sequence[int] = ()
    spec: ExportSpec = ExportSpec(tol=1.0)
    seconds: float = 40.0
    timeout: float = 120.0

    def __post_init__(self) -> None:
        if not self.models or not self.chosen:
            raise BadInput("A profile needs a model or file, a tolerance and a target; give each.")
        if any(not isinstance(m, Path) for m in self.models):
            if not (self.tols and self.precisions and self.forms):
                raise BadInput("A model needs a tolerance, a precision and a form; give each.")
            if not any(cell.spec for cell in self.cells()):
                raise BadInput(next(self.cells()).problem)

    @cached_property
    def chosen(self) -> tuple[Target, ...]:
        """The targets, each once for every batch size."""
        known = [find_target(name) for name in dict.fromkeys(self.targets)]
        if not self.batches:
            return tuple(known)
        return tuple(replace(t, batch=b) for b in dict.fromkeys(self.batches) for t in known)

    @property
    def strictest(self) -> ExportSpec:
        """The common wishes at the smallest tolerance, which the reference must serve."""
        return replace(self.spec, tol=min(self.tols))

    def cells(self) -> Iterator[Cell]:
        """Artefacts by target, whatever its batch; by precision and form, the widest tolerance
        first.

        Raises BadInput or UnknownName for wishes that are nonsense on every target.
        """
        targets: dict[str, Target] = {}
        for target in self.chosen:
            targets.setdefault(target.name, target)
        for target in targets.values():
            for precision in dict.fromkeys(self.precisions):
                for form in dict.fromkeys(self.forms):
                    for tol in sorted(set(self.tols), reverse=True):
                        yield self._cell(target, tol, precision, form)

    def _cell(self, target: Target, tol: float, precision: str, form: str) -> Cell:
        plain = replace(self.spec, tol=tol, target=target.name)
        common = {"tol": tol, "precision": precision, "form": form}
        try:
            spec = replace(plain, format=target.format, precision=precision, form=form)
            formats.check_form(spec.format, form)
        except OdeDeployError as error:
            if isinstance(error, UnknownName) or (precision, form) == ("fp32", "unrolled"):
                raise
            return Cell(target, tol, precision, form, None, str(error))
        return Cell(target, spec=spec, **common)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """What another run must ask for to go on with this one."""
        common = {
            key: value for key, value in asdict(self.spec).items()
            if key not in VARIED and value != getattr(ExportSpec(tol=1.0), key)
        }  # fmt: skip
        here = machine.fingerprint()
        return {
            "models": [_identity(model) for model in self.models],
            "tolerances": sorted(set(self.tols), reverse=True),
            "targets": list(self.targets),
            "precisions": list(self.precisions),
            "forms": list(self.forms),
            "batch_sizes": list(dict.fromkeys(target.batch for target in self.chosen)),
            "seconds": self.seconds,
            "wishes": common,
            "version": __version__,
            "machine": f"{here['cpu']}, {here['cores']} cores",
        }


def fingerprint(model: Loaded) -> str:
    """SHA-256 of the model's address, weights and inputs."""
    digest = hashlib.sha256(repr((model.address or model.name, sorted(model.static))).encode())
    arrays = [(name, value.detach().cpu().numpy()) for name, value in _state(model).items()]
    for name, array in (*arrays, *model.inputs.items()):
        array = np.ascontiguousarray(array)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def stems(models: Sequence[Loaded | Path]) -> list[str]:
    """File names of the models, no two alike."""
    taken: dict[str, int] = {}
    found = []
    for model in models:
        stem = model.stem if isinstance(model, Path) else _stem(model.name)
        taken[stem] = taken.get(stem, 0) + 1
        found.append(stem if taken[stem] == 1 else f"{stem}-{taken[stem]}")
    return found


def file_name(stem: str, spec: ExportSpec, variant: str) -> str:
    """Of a model's artefact, by what tells it from the others of a sweep; ``variant`` is that of
    its target."""
    parts = [stem, f"{spec.tol:g}"]
    parts += [spec.precision] if spec.precision != "fp32" else []
    parts += [spec.form] if spec.form != "unrolled" else []
    parts += [variant] if variant else []
    return "-".join(parts) + formats.find(spec.format).suffix


def command(model: Loaded, spec: ExportSpec, path: Path) -> str:
    """The command line that exports ``path``."""
    words = ["odedeploy", "export", model.name, "--tol", f"{spec.tol:g}"]
    for field in fields(ExportSpec):
        value, option = getattr(spec, field.name), "--" + field.name.replace("_", "-")
        if field.name in ("tol", "tols") or value == getattr(ExportSpec(tol=1.0), field.name):
            continue
        words += [option] if value is True else [option, str(value)]
    for name, tol in spec.tols.items():
        words += ["--tol", f"{name}={tol:g}"]
    for option, file in (("--weights", model.weights), ("--inputs", model.inputs_file)):
        words += [] if file is None else [option, str(file)]
    for name in sorted(model.static - {n for n, a in model.inputs.items() if a.ndim == 0}):
        words += ["--static", name]
    return shlex.join([*words, "-o", path.name])


def _identity(model: Loaded | Path) -> dict[str, Any]:
    if isinstance(model, Path):
        return {"file": model.name, "sha256": files.sha256(model)[:16]}
    return {"model": model.name, "sha256": fingerprint(model)[:16]}


def _state(model: Loaded) -> Mapping[str, Any]:
    return dict(model.module.state_dict())


def _stem(name: str) -> str:
    """A model's name as a file name: ``my_model.py:build`` → ``my_model``."""
    stem = name.split(":")[0].rsplit("/", 1)[-1].removesuffix(".py")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "model"
