"""A manifest for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from odedeploy.cli import output
from odedeploy.manifest import Manifest


def of(manifest: Manifest) -> list[Any]:
    """The sentence that is promised, and the numbers it rests on."""
    error, plan = manifest.error, manifest.plan
    bound = f"{_bound(manifest)} (largest {error.max:.3g}, median {error.median:.3g})"
    return [
        output.facts(
            manifest.file,
            [
                ("solver", _solver(plan)),
                ("evaluations (NFE)", plan["nfe"]),
                *((f"  {site['name']}", _site(site)) for site in plan["sites"]),
                ("tolerance", f"{manifest.tol:g}" + ("" if manifest.kept else ", not kept")),
                ("certified error", bound),
                ("  discretisation, largest", manifest.discretisation_error),
                ("  export, largest", manifest.export_error),
                ("steps, certified", _steps(manifest)),
                *control(manifest),
                *alarm(manifest),
                ("reference", _reference(manifest.reference)),
                ("inputs", _signature(manifest.inputs)),
                ("outputs", _signature(manifest.outputs)),
                (
                    "file",
                    f"{manifest.format}, {manifest.form}, {manifest.precision}, "
                    f"{output.size(manifest.bytes)}",
                ),
                ("seconds", ", ".join(f"{k} {v:.1f}" for k, v in manifest.seconds.items())),
            ],
        ),  # fmt: skip
        "",
        manifest.promise,
    ]


def _solver(plan: Mapping[str, Any]) -> str:
    """The solver, and where its steps or numbers were fitted, how."""
    if not plan["sites"]:
        return "none: an ordinary network, which solves no ODE"
    how = {"grid": "on a grid of its own", "learned": "fitted", "distilled": "fitted with biases"}
    said = how.get(plan.get("kind", ""))
    return str(plan["solver"]) if said is None else f"{plan['solver']}, {said}"


def _bound(manifest: Manifest) -> str:
    error = manifest.error
    if error.bound is None:
        return "no bound"
    return f"{error.bound:.3g} on {error.samples} inputs"


def control(manifest: Manifest) -> list[tuple[str, str]]:
    """How an adaptive file chooses its steps; nothing for one with fixed steps."""
    known = manifest.extra.get("control")
    if known is None:
        return []
    steps = "of each sample" if known["per_sample"] else "of the whole batch"
    spent = known["evaluations"]
    return [
        ("steps", f"{steps}, by default rtol = atol = {known['tolerance']:g} and at most "
                  f"{known['max_evaluations']} evaluations"),
        ("  evaluations", f"{spent['mean']:.1f} on average, at most {spent['max']}, on the "
                          "certification inputs"),
    ]  # fmt: skip


def alarm(manifest: Manifest) -> list[tuple[str, str]]:
    """What is known of the file's alarm; nothing for a file without one."""
    known = manifest.extra.get("alarm")
    if known is None:
        return []
    false = known["false_alarm"]
    facts = [
        ("alarm", f"output {known['output']}, above 1 where the solve goes unlike its calibration"),
        ("  false alarms", f"{false['rate']:.2%} of {false['samples']} inputs, at most "
                           f"{false['bound']:.2%} with {false['confidence']:.0%} confidence"),
    ]  # fmt: skip
    for kind in dict.fromkeys(found["kind"] for found in known["detection"]):
        rows = [f"{found['rate']:.0%} at {found['size']:g}" for found in known["detection"]
                if found["kind"] == kind]  # fmt: skip
        facts.append((f"  raised under {kind}", ", ".join(rows)))
    return facts


def _site(site: Mapping[str, Any]) -> str:
    return f"{site['solver']}, {site['nfe']} evaluations, t = {site['t0']:g} to {site['t1']:g}"


def _reference(reference: Mapping[str, Any]) -> str:
    return f"{reference['method']}, own error {output.text(reference['self_check'])}"


def _signature(specs: Sequence[Any]) -> str:
    return ", ".join(f"{s.name} {s.dtype} ({', '.join(map(str, s.shape))})" for s in specs)


def _steps(manifest: Manifest) -> str | None:
    """Numbers of steps that a loop may be given."""
    known = manifest.extra.get("steps")
    if known is None or known["certified"] is None:
        return None
    low, high = known["certified"]
    return f"{low} to {high} (by default {known['default']})"
