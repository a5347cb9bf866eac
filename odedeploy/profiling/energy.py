"""Energy from what counts it, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from odedeploy.profiling.nvml import Nvml
from odedeploy.profiling.rapl import Rapl

PACKAGE, GPU, METER = "package", "gpu", "meter"
"""What a number is the energy of: processor packages, the GPU's board, all that a meter feeds."""

ON_GPU = ("CUDAExecutionProvider", "TensorrtExecutionProvider")


class Counter(Protocol):
    """Counts energy from one look to the next."""

    def joules(self) -> float | None:
        """Since the last call, the first time since it was made; None where nothing tells."""


def counters(request: Mapping[str, Any]) -> dict[str, Counter]:
    """What counts here, by what it counts, for a worker that is asked to ``open`` an artefact."""
    found: dict[str, Counter] = {PACKAGE: Rapl()}
    options = request.get("options") or {}
    providers = [*(request.get("providers") or ()), *options.get("providers", ())]
    if "cuda" in str(options.get("device")) or set(ON_GPU) & set(providers):
        found[GPU] = Nvml()
    return found


def spent(counters: Mapping[str, Counter]) -> dict[str, float]:
    """Joules since the last look, of those that tell."""
    looks = {name: counter.joules() for name, counter in counters.items()}
    return {name: joules for name, joules in looks.items() if joules is not None}


def total(energies: Mapping[str, float]) -> float | None:
    """The meter's, in which all others are contained, else their sum; None for none."""
    if METER in energies:
        return energies[METER]
    return sum(energies.values()) if energies else None
