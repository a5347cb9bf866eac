"""How a worker loads what it measures: one opener per runtime, by name.

An opener takes the request and imports its runtime; what it returns loads the model. So the time
and memory of loading the model are told from those of importing the runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from odedeploy.errors import BadInput, FellShort, UnknownName
from odedeploy.runtime import Artefact, check_golden

OPENERS: dict[str, str] = {
    **dict.fromkeys(
        ("onnxruntime", "torchscript", "torch-compile", "openvino", "executorch", "litert"),
        "odedeploy.profiling.openers:artefact",
    ),
    **dict.fromkeys(("node", "wasm"), "odedeploy.profiling.openers:elsewhere"),
    "pytorch": "odedeploy.profiling.openers:pytorch",
}

Query = Mapping[str, np.ndarray]


@runtime_checkable
class Timer(Protocol):
    """What times its runs in the process that they run in, of the id ``process``, None for this
    one, so that the way there does not count. ``settling`` runs go by before latencies settle."""

    process: int | None
    settling: int

    def timed(
        self, queries: Sequence[Query], ms: float, least: int
    ) -> tuple[list[int], Sequence[np.ndarray]]:
        """Runs the queries in turn, going on where it stopped, for ``ms`` milliseconds and at
        ``least`` so often; latencies in ns and the outputs of the last run."""
        ...


class Loaded(NamedTuple):
    """``run`` maps arrays by input name to outputs; ``facts`` describes how it runs. A
    runtime in a process of its own brings its ``timer``."""

    run: Callable[[Query], Sequence[np.ndarray]]
    facts: dict[str, Any]
    timer: Timer | None = None


Opener = Callable[[Mapping[str, Any]], Callable[[], Loaded]]


def find(runtime: str) -> Opener:
    """The opener of a runtime's name or ``package.module:callable`` address."""
    address = OPENERS.get(runtime, runtime)
    module, colon, attribute = address.partition(":")
    if not colon:
        raise UnknownName("runtime", runtime, OPENERS)
    opener: Opener = getattr(import_module(module), attribute)
    return opener


def artefact(request: Mapping[str, Any]) -> Callable[[], Loaded]:
    """A file in the runtime of its format, with exactly the requested threads and options.

    The runtime's checks of the inputs' values are left out of the time.
    """
    from odedeploy import formats

    form = formats.find(request["format"])
    with suppress(ImportError):
        import_module(form.runtime)

    def start() -> Loaded:
        model = form.open(request["path"], request["threads"], request["options"])

        def run(query: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            return list(model.run(query, check=False).values())

        return Loaded(run, dict(model.facts))

    return start


def elsewhere(request: Mapping[str, Any]) -> Callable[[], Loaded]:
    """A file in a runtime that has a process of its own, once it has given its golden outputs
    there; loading is the runtime's own time of it."""
    from odedeploy import formats

    form = formats.find(request["format"])

    def start() -> Loaded:
        model = form.open(request["path"], request["threads"], request["options"])
        facts = {**model.facts, **golden_facts(model)}
        assert isinstance(model, Timer)
        return Loaded(lambda query: list(model.run(query, check=False).values()), facts, model)

    return start


def golden_facts(model: Artefact) -> dict[str, Any]:
    """How far an artefact is from its golden outputs here; raises FellShort when that is too far,
    and BadInput when it has none."""
    found = check_golden(model)
    if not found:
        raise FellShort(f"On this device the answers are wrong: {found}.")
    return {"golden_error": float(found.errors.max()), "golden_tolerance": found.tolerance}


def pytorch(request: Mapping[str, Any]) -> Callable[[], Loaded]:
    """The user's module in PyTorch, inputs by the names of forward's arguments or by position.

    It runs in inference mode; a model that differentiates inside its forward cannot, and runs
    under ``no_grad``.
    """
    import inspect

    import torch

    from odedeploy.frontends.loading import load_model

    torch.set_num_threads(request["threads"])
    weights = request["weights"] and Path(request["weights"])
    mode: Any = torch.inference_mode

    def start() -> Loaded:
        module = load_model(request["path"], weights)[0].eval()
        names = set(inspect.signature(module.forward).parameters)

        def forward(query: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            tensors = {name: torch.from_numpy(value) for name, value in query.items()}
            with mode():
                named = tensors.keys() <= names
                result = module(**tensors) if named else module(*tensors.values())
                return [tensor.numpy() for tensor in _tensors(result)]

        def run(query: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            nonlocal mode
            try:
                return forward(query)
            except RuntimeError:
                if mode is torch.no_grad:
                    raise
                mode = torch.no_grad
                return forward(query)

        return Loaded(run, {})

    return start


def _tensors(result: Any) -> list[Any]:
    """The tensors of a model's output, nested containers flattened."""
    if hasattr(result, "detach"):
        return [result.detach()]
    if isinstance(result, Mapping):
        result = result.values()
    if not isinstance(result, str) and hasattr(result, "__iter__"):
        return [tensor for item in result for tensor in _tensors(item)]
    raise BadInput(f"The model returns {type(result).__name__}; return a tensor or several.")
