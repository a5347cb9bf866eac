"""mnist-odenet's drift alarm: false alarms on all 10,000 test digits, detection, and its cost.

Latencies are in onnxruntime, batch 1, one thread, the files with and without the alarm interleaved
in one process.

    python benchmarks/alarm.py [--data DIR] [--tol 1e-2] [--rounds 60]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

import odedeploy
from odedeploy import api
from odedeploy.delivery import deliver
from odedeploy.manifest import Manifest
from odedeploy.models import mnist
from odedeploy.runtime import Model
from odedeploy.search.certificate import clopper_pearson
from odedeploy.spec import ExportSpec

REPEATS = 10


def false_alarms(model: Model, images: np.ndarray) -> dict[str, object]:
    """Share of ``images`` that raise the alarm, and its exact 95 % interval."""
    assert model.alarm is not None
    parts = [model.run({"image": images[i : i + 500]}) for i in range(0, len(images), 500)]
    values = np.concatenate([part[model.alarm] for part in parts])
    raised = int(np.sum(values > 1))
    return {
        "digits": len(values), "rate": raised / len(values),
        "interval": clopper_pearson(raised, len(values), 0.95),
    }  # fmt: skip


def cost(watched: Path, bare: Path, image: np.ndarray, rounds: int) -> dict[str, object]:
    """Latency with the alarm ÷ without, paired round by round, and its 95 % bootstrap interval."""
    files = (watched, bare)
    models = [odedeploy.load(path, threads=1) for path in files]
    samples = np.zeros((rounds, REPEATS, 2))
    for i in range(-5, rounds):
        for repeat in range(REPEATS):
            for j, model in enumerate(models):
                began = time.perf_counter()
                model.run({"image": image}, check=False)
                samples[max(i, 0), repeat, j] = time.perf_counter() - began
    seconds = np.median(samples, 1)
    ratios = seconds[:, 0] / seconds[:, 1]
    resampled = np.random.default_rng(0).choice(ratios, (2000, rounds))
    nodes = [len(onnx.load(path).graph.node) for path in files]
    return {
        "nodes": nodes, "bytes": [path.stat().st_size for path in files],
        "latency_ms": [round(1e3 * float(np.median(s)), 3) for s in seconds.T],
        "ratio": round(float(np.median(ratios)), 3),
        "interval": np.percentile(np.median(resampled, 1), [2.5, 97.5]).round(3).tolist(),
    }  # fmt: skip


def show(manifest: Manifest, found: dict[str, object], price: dict[str, object]) -> None:
    alarm, plan = manifest.extra["alarm"], manifest.plan
    false = alarm["false_alarm"]
    print(f"{plan['solver']}, {plan['nfe']} evaluations, bound {manifest.error.bound:.2e}, "
          f"rank correlation with the error {alarm['spearman']:.2f}")  # fmt: skip
    print(f"false alarms: {false['rate']:.2%} of {false['samples']} certification digits, "
          f"bound {false['bound']:.2%}; {found['rate']:.2%} of {found['digits']} test digits\n")
    print("| digits | raise the alarm | miss the tolerance | of those, raise the alarm |")
    print("|---|---|---|---|")
    for d in alarm["detection"]:
        recall = "–" if d["recall_of_bad"] is None else f"{d['recall_of_bad']:.0%}"
        print(f"| {d['kind']} {d['size']:g} | {d['rate']:.0%} | {d['bad']:.0%} | {recall} |")
    low, high = price["interval"]  # type: ignore[misc]
    print(f"\nlatency with ÷ without: {price['ratio']} ({low} – {high}), nodes {price['nodes']}, "
          f"bytes {price['bytes']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of MNIST's IDX files; else fetched")
    parser.add_argument("--tol", type=float, default=1e-2)
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    images = mnist.pixels(mnist.load("test", arguments.data).images)
    loaded = api.load_model("mnist-odenet")
    graph = api.capture(loaded.module, loaded.inputs)
    spec = ExportSpec(tol=arguments.tol, alarm=True)
    planned = api.plan(graph, loaded.inputs, spec=spec)
    with tempfile.TemporaryDirectory() as folder:
        watched, bare = Path(folder) / "watched.onnx", Path(folder) / "bare.onnx"
        manifest = deliver(graph, planned, watched)
        deliver(graph, replace(planned, spec=replace(spec, alarm=False)), bare)
        found = false_alarms(odedeploy.load(watched), images)
        price = cost(watched, bare, images[:1], arguments.rounds)
    show(manifest, found, price)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    content = {"plan": [manifest.plan["solver"], manifest.plan["nfe"]],
               "alarm": manifest.extra["alarm"], "test": found, "cost": price,
               "seconds": manifest.seconds}  # fmt: skip
    (results / "alarm.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
