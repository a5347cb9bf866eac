"""Step-size control: the DETEST problems beside torchdiffeq, and what easy inputs save.

* Every problem of DETEST at two tolerances, in float64: how far the adaptive form ends from
  torchdiffeq's dopri5, errors of both against dopri8 at 1e-12, and their evaluations. In units of
  the tolerance, relative to the larger of 1 and the state.
* Every reference model with an adaptive solve, at 1e-3 and 1e-5, in float32, a batch of 16 of its
  calibration inputs: how far the answers of the adaptive form are from those of its own torchdiffeq
  solve, errors of both against float64 at 1e-9, relative to the norm of an answer and in units of
  the tolerance, and the evaluations.
* Evaluations of single inputs with ``per_sample``: orbits by eccentricity, the Van der Pol
  oscillator by where it starts, and mnist-odenet digits.

    python benchmarks/adaptive.py [--images 256] [--parts digits starts models detest]
        [--problems A1 …]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from torchdiffeq._impl.misc import _PerturbFunc

from odedeploy import api, models
from odedeploy.lowering import lower
from odedeploy.passes import clean
from odedeploy.program import Control, Plan

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from detest import PROBLEMS, Problem  # noqa: E402

TOLERANCES = (1e-3, 1e-6)
FOCUS = (0.0, 0.3, 0.6, 0.9)
"""Eccentricities."""
AWAY = (1e-4, 1e-2, 1.0, 4.0)
"""Where the oscillator starts; its cycle is at 2."""
DIGITS = (1e-2, 1e-3, 1e-4)
SHIPPED = (1e-3, 1e-5)
BATCH = 16


def session(model: ir.Model) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def asked(
    model: onnxruntime.InferenceSession, name: str, array: np.ndarray, tol: float
) -> list[np.ndarray]:
    tolerance = np.array(tol, array.dtype)
    found: list[np.ndarray] = model.run(
        None, {name: array, "rtol": tolerance, "atol": tolerance}
    )
    return found


def detest(name: str, problem: Problem) -> list[dict[str, Any]]:
    model = session(problem.adaptive())
    truth, _ = problem.solved("dopri8", rtol=1e-12, atol=1e-12)
    size = max(1.0, float(np.abs(truth).max()))
    rows = []
    for tol in TOLERANCES:
        ours, evaluations, converged = asked(model, "x", problem.initial().numpy(), tol)
        theirs, count = problem.solved(rtol=tol, atol=tol)

        def apart(a: np.ndarray, b: np.ndarray, unit: float = size * tol) -> float:
            return float(f"{np.abs(a - b).max() / unit:.3g}")

        rows.append({
            "problem": name, "tolerance": tol, "apart": apart(ours, theirs),
            "error": apart(ours, truth), "torchdiffeq_error": apart(theirs, truth),
            "evaluations": int(evaluations), "torchdiffeq_evaluations": count,
            "ratio": round(int(evaluations) / count, 3), "converged": int(converged),
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows


def starts() -> dict[str, Any]:
    """Evaluations of single starts, together in one batch, by problem and tolerance."""
    families = {
        "orbit, by eccentricity": (
            "D1", [(1 - e, 0.0, 0.0, ((1 + e) / (1 - e)) ** 0.5) for e in FOCUS], list(FOCUS)
        ),
        "Van der Pol, by distance": ("E2", [(x, 0.0) for x in AWAY], list(AWAY)),
    }  # fmt: skip
    found: dict[str, Any] = {}
    for name, (problem, rows, labels) in families.items():
        model = session(PROBLEMS[problem].adaptive(per_sample=True))
        found[name] = {
            f"{tol:g}": dict(
                zip(map(str, labels), asked(model, "x", np.array(rows), tol)[1].tolist(),
                    strict=True)
            )
            for tol in TOLERANCES
        }  # fmt: skip
    return found


def digits(count: int) -> list[dict[str, Any]]:
    """How many mnist-odenet digits take how many evaluations, and how sure they are of a class."""
    loaded = api.load_model("mnist-odenet")
    graph = api.capture(loaded.module, loaded.inputs)
    plan = Plan((), control=Control(per_sample=True))
    model = session(clean(lower(graph, plan, "adaptive")))
    images, rows = loaded.inputs["image"][:count], []
    for tol in DIGITS:
        logits, evaluations, _ = asked(model, "image", images, tol)
        ordered = np.sort(logits, 1)
        lead = ordered[:, -1] - ordered[:, -2]
        for spent in sorted(set(evaluations.tolist())):
            chosen = evaluations == spent
            rows.append({
                "tolerance": tol, "evaluations": spent, "digits": int(chosen.sum()),
                "median_lead_of_the_class": round(float(np.median(lead[chosen])), 2),
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    return rows


def reference_model(name: str) -> list[dict[str, Any]]:
    """A batch through the adaptive form and through the model's own solve, by tolerance."""
    loaded = api.load_model(name)
    graph = api.capture(loaded.module, loaded.inputs)
    if not any(site.kept is None for site in graph.sites):
        return []
    made = session(clean(lower(graph, Plan((), control=Control()), "adaptive")))
    batch = {key: array[:BATCH] for key, array in loaded.inputs.items()}
    truth, _ = solved(deepcopy(loaded.module).double(), batch, 1e-9)
    rows = []
    for tol in SHIPPED:
        feed = {**batch, "rtol": np.array(tol, np.float32), "atol": np.array(tol, np.float32)}
        *ours, evaluations, converged = made.run(None, feed)
        theirs, count = solved(loaded.module, batch, tol)
        rows.append({
            "model": name, "tolerance": tol, "apart": farthest(ours, theirs, tol),
            "error": farthest(ours, truth, tol), "torchdiffeq_error": farthest(theirs, truth, tol),
            "evaluations": int(evaluations), "torchdiffeq_evaluations": count,
            "ratio": round(int(evaluations) / count, 3), "converged": int(converged),
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows


def solved(
    model: torch.nn.Module, batch: dict[str, np.ndarray], tol: float
) -> tuple[list[np.ndarray], int]:
    """What ``model`` answers by its own adaptive solve at ``tol``, in the precision of its weights,
    and the evaluations it took."""
    for module in model.modules():
        if hasattr(module, "tolerance"):
            cast(Any, module).tolerance = tol
    precision = next(model.parameters()).dtype
    given = {name: torch.from_numpy(array) for name, array in batch.items()}
    given = {k: x.to(precision) if x.is_floating_point() else x for k, x in given.items()}
    count = depth = 0
    forward = _PerturbFunc.forward

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal count, depth
        count, depth = count + (depth == 0), depth + 1
        try:
            return forward(*given, **named)
        finally:
            depth -= 1

    with torch.no_grad(), patch.object(_PerturbFunc, "forward", counted):
        answer = model(**given)
    if isinstance(answer, dict):
        answer = tuple(answer.values())
    return [part.numpy() for part in (answer if isinstance(answer, tuple) else (answer,))], count


def farthest(found: list[np.ndarray], wanted: list[np.ndarray], unit: float) -> float:
    """The largest distance of any answer, relative to its norm or the mean one if that is more."""
    norms = [[np.linalg.norm(a.reshape(len(a), -1), axis=1) for a in (x - y, y)]
             for x, y in zip(found, wanted, strict=True)]  # fmt: skip
    largest = max(float((off / np.maximum(size, size.mean())).max()) for off, size in norms)
    return float(f"{largest / unit:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--parts", nargs="+", default=["digits", "starts", "models", "detest"])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], Any]] = {
        "digits": lambda: digits(arguments.images),
        "starts": starts,
        "models": lambda: [row for name in models.MODELS for row in reference_model(name)],
        **{name: partial(detest, name, PROBLEMS[name]) for name in arguments.problems},
    }
    results = Path(__file__).parent / "results" / "adaptive.json"
    known = json.loads(results.read_text()) if results.exists() else {}
    for name, part in parts.items():
        of_detest = name in PROBLEMS
        if ("detest" if of_detest else name) in arguments.parts:
            (known.setdefault("detest", {}) if of_detest else known)[name] = part()
            results.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
