"""An exported ONNX file in an engine."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from odedeploy.errors import BadInput, Crashed
from odedeploy.javascript.host import Host, host
from odedeploy.javascript.installation import find
from odedeploy.javascript.tensors import pack, unpack
from odedeploy.runtime import Artefact, Model, load


class JavaScriptModel(Artefact):
    """A file in the engine of ``host``, which times its runs itself.

    ``known`` is the same file in onnxruntime, which tells more of it than its JavaScript does.
    Inputs with a default keep it: JavaScript has no way to give them.
    """

    def __init__(self, host: Host, known: Model, threads: int | None) -> None:
        self._host = host
        self._title = f"{host.engine.packages[0]} {host.versions[host.engine.packages[0]]}"
        self.file, self.metadata = known.file, dict(known.metadata)
        self.inputs, self.outputs = known.inputs, known.outputs
        if known.options:
            self.limits = {"defaults": [spec.name for spec in known.options]}
        answer = host.open(known.file, threads)
        if "error" in answer:
            raise BadInput(
                f"{known.file} is not a model that {self._title} can load "
                f"({_line(answer['error'])}); take another target."
            )
        self._number: int = answer["id"]
        weakref.finalize(self, host.drop, self._number)
        self.process, self.settling = host.process, host.engine.settling
        self._held: list[Mapping[str, np.ndarray]] = []
        self.facts = {
            "providers": [host.engine.provider],
            "options": {"engine": host.engine.name, **host.versions},
            "load_ms": answer["load_ms"],
            "base_mb": answer["base_mb"],
        }

    def answer(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Raises Crashed when the engine fails."""
        return self._outputs(self._ask("run", inputs=self._packed(feed)))

    def timed(
        self, queries: Sequence[Mapping[str, np.ndarray]], ms: float, least: int
    ) -> tuple[list[int], list[np.ndarray]]:
        """Runs the queries in turn for ``ms`` milliseconds and at ``least`` so often; latencies in
        ns, by the engine's clock, and the outputs of the last run. Raises Crashed when it fails."""
        same = len(queries) == len(self._held) and all(map(_is, queries, self._held))
        if not same:
            self._ask("hold", queries=[self._packed(query) for query in queries])
            self._held = list(queries)
        answer = self._ask("time", ms=ms, least=least)
        return answer["ns"], self._outputs(answer)

    def _checked(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        if given := [name for name in self.limits.get("defaults", ()) if name in inputs]:
            raise BadInput(
                f"{self._title} takes no inputs that have a default, and {given} have one in "
                f"{self.file.name}; leave them out, or take the target 'cpu'."
            )
        return super()._checked(inputs)

    def _packed(self, feed: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {spec.name: pack(np.asarray(feed[spec.name])) for spec in self.inputs}

    def _outputs(self, answer: Mapping[str, Any]) -> list[np.ndarray]:
        return [unpack(answer["outputs"][spec.name]) for spec in self.outputs]

    def _ask(self, do: str, **request: Any) -> dict[str, Any]:
        answer = self._host.ask(do, id=self._number, **request)
        if "error" in answer:
            raise Crashed(f"{self._title} failed on {self.file} ({_line(answer['error'])}).")
        return answer


def open_in(
    engine: str,
    path: str | os.PathLike[str],
    threads: int | None,
    settings: Mapping[str, Any],
) -> JavaScriptModel:
    """An ONNX file in the engine of that name.

    Raises BadInput for settings, of which there are none, for more threads than the engine can have
    and for a file that it cannot load, UnknownName for an engine, and Unusable where that is.
    """
    chosen = find(engine)
    if settings:
        raise BadInput(
            f"The engine {engine!r} has no setting {next(iter(settings))!r}; leave it out."
        )
    most = chosen.most_threads
    if most is not None and threads is not None and threads > most:
        raise BadInput(f"The engine {engine!r} runs on {most} thread, got {threads}; leave it out.")
    known = load(path, threads=1)
    return JavaScriptModel(host(chosen), known, threads if most is None else most)


def _is(a: object, b: object) -> bool:
    return a is b


def _line(words: str) -> str:
    """What an engine says, on one line."""
    return " ".join(words.split())[:300].rstrip(".")
