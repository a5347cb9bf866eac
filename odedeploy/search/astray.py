"""Inputs led astray, on which an alarm is tried before it is delivered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from odedeploy.graph import Inputs, OdeGraph
from odedeploy.grid import Grid
from odedeploy.program import Plan, solve_plan
from odedeploy.reference import Reference, take
from odedeploy.search.splits import Splits
from odedeploy.solvers import find

ASTRAY = 64
"""Certification inputs that are led astray to try the alarm."""

PERTURBATIONS = tuple(
    (kind, size)
    for kind, sizes in (
        ("scale", (1.5, 2.0, 3.0)), ("shift", (0.5, 1.0, 2.0)), ("noise", (0.5, 1.0, 2.0))
    )
    for size in sizes
)  # fmt: skip
"""Kinds and sizes: ``scale`` multiplies the inputs, ``shift`` adds a constant and ``noise`` a
Gaussian, both in units of each input's standard deviation over all calibration inputs."""


@dataclass(frozen=True)
class Detection:
    """Alarms on certification inputs that were led astray.

    ``bad`` is the share of them that miss the limit of the metric, and ``recall_of_bad`` the share
    of those that raise the alarm, None where there are none.
    """

    kind: str
    size: float
    rate: float
    bad: float
    recall_of_bad: float | None
    samples: int


def led_astray(splits: Splits, kind: str, size: float, seed: int) -> Inputs | None:
    """A few certification inputs led astray; None when none of them is a floating-point array."""
    few = take(splits.certify.inputs, np.arange(len(splits.certify))[:ASTRAY], splits.static)
    generator = np.random.default_rng(seed)
    led = {}
    for name, array in few.items():
        if name in splits.static or not np.issubdtype(array.dtype, np.floating):
            continue
        spread = float(np.std(splits.inputs[name], dtype=np.float64)) or 1.0
        moved = array.astype(np.float64)
        if kind == "scale":
            moved *= size
        else:
            unit = generator.standard_normal(array.shape) if kind == "noise" else 1.0
            moved += size * spread * unit
        led[name] = moved.astype(array.dtype)
    return {**few, **led} if led else None


def resolved_plan(graph: OdeGraph, reference: Reference) -> Plan:
    """A plan at about the resolution that the reference needed, to judge inputs astray by."""
    free = [site for site in graph.sites if site.kept is None]
    steps = 1
    if free:
        method = find(reference.method)
        while len(free) * method.evaluations(2 * steps) <= reference.evaluations:
            steps *= 2
    return Plan(
        tuple(
            site.kept
            or solve_plan(site.name, find(reference.method), Grid.through(site.times, steps))
            for site in graph.sites
        )
    )
