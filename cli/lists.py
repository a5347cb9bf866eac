"""``odedeploy models``, ``solvers`` and ``targets``: what there is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from odedeploy.cli import output
from odedeploy.cli.options import Json

SHARES = ("accuracy", "error")
"""How the names of those figures on model cards end that are shares."""


def models(as_json: Json = False) -> None:
    """List the reference models, with what they reach."""
    from odedeploy.models import MODELS, card

    found: list[dict[str, Any]] = [
        {"name": n, "summary": e.summary, "card": card(n)} for n, e in MODELS.items()
    ]
    if as_json:
        output.emit({"models": found})
        return
    rows = [
        (
            m["name"],
            m["summary"],
            m["card"]["data"]["name"],
            f"{m['card']['parameters']:,}",
            _reached(m["card"]),
        )
        for m in found
    ]
    columns = ("model", "what it is", "data", "parameters>", "in its test>")
    output.show(output.table("", columns, rows))


def _reached(card: dict[str, Any]) -> str:
    """The first figure that a model was tested for."""
    name, figure = next(iter(card["test"].items()))
    share = name.endswith(SHARES)
    return f"{name.replace('_', ' ')} " + (f"{figure:.2%}" if share else f"{figure:.3f}")


def solvers(as_json: Json = False) -> None:
    """List the solvers, with their sources."""
    from odedeploy.solvers import SOLVERS, TORCHDIFFEQ

    found: list[dict[str, Any]] = [
        {
            "name": method.name,
            "order": method.order,
            "evaluations_per_step": method.evaluations(2) - method.evaluations(1),
            "evaluations_to_start": 2 * method.evaluations(1) - method.evaluations(2),
            "torchdiffeq": [theirs for theirs, ours in TORCHDIFFEQ.items() if ours == method.name],
            "source": method.source,
        }
        for method in SOLVERS.values()
    ]
    if as_json:
        output.emit({"solvers": found})
        return
    columns = ("solver", "order>", "per step>", "to start>", "in torchdiffeq", "source")
    rows = [(*list(s.values())[:4], ", ".join(s["torchdiffeq"]), s["source"]) for s in found]
    output.show(output.table("Evaluations of the vector field", columns, rows))


def targets(as_json: Json = False) -> None:
    """List the targets, and which work here."""
    from odedeploy.targets import find, names, usable

    found = [
        {**asdict(target), "usable": (reason := usable(target)) is None, "reason": reason}
        for target in map(find, names())
    ]
    if as_json:
        output.emit({"targets": found})
        return
    rows = [(t["name"], t["description"], t["reason"] or "usable") for t in found]
    output.show(output.table("", ("target", "what it is", "here"), rows))
