"""An ODE-Net's artefacts on all 10,000 test digits, against the float64 reference solve.

    python benchmarks/digits.py [--model NAME] [--data DIR] [--tol 1e-2] [--format NAME …]
        [--metric agreement --tol 0.001]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from odedeploy import api
from odedeploy.delivery import deliver
from odedeploy.formats import FORMATS, find
from odedeploy.frontends import live
from odedeploy.graph import Outcome
from odedeploy.models import mnist
from odedeploy.planned import Planned
from odedeploy.reference import solve
from odedeploy.spec import METRICS, ExportSpec

REFERENCE_TOL = 5e-2
"""The reference of all digits is checked to 2 % of this, a tenth of the default tolerance."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="mnist-odenet")
    parser.add_argument("--format", nargs="+", default=["onnx", "torchscript"], choices=FORMATS)
    parser.add_argument("--data", type=Path, help="folder of MNIST's IDX files; else fetched")
    parser.add_argument("--tol", type=float, default=1e-2)
    parser.add_argument("--metric", default="output", choices=METRICS)
    arguments = parser.parse_args()
    digits = mnist.load("test", arguments.data)
    images = {"image": mnist.pixels(digits.images)}
    loaded = api.load_model(arguments.model)
    graph = api.capture(loaded.module, loaded.inputs)
    asked = ExportSpec(tol=arguments.tol, metric=arguments.metric)
    planned = api.plan(graph, loaded.inputs, spec=asked)
    reference = solve(live(graph), graph.sites, images, REFERENCE_TOL)
    truth = reference.outcome.outputs["output"]
    wrong = float(np.mean(truth.argmax(1) != digits.labels))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.format:
            spec = replace(asked, format=name)
            path = Path(folder) / f"m{find(name).suffix}"
            manifest = deliver(
                graph, Planned(spec, planned.splits, planned.reference, planned.search, {}), path
            )
            runner = find(name).open(path)
            parts = [
                runner.run({"image": images["image"][i : i + 500]})["output"]
                for i in range(0, len(truth), 500)
            ]
            found = np.concatenate(parts)
            errors = reference.errors(Outcome({"output": found}, {}), np.arange(len(truth)))
            rows.append({
                "format": name, "solver": manifest.plan["solver"], "nfe": manifest.plan["nfe"],
                "bound": manifest.error.bound,
                "within": float(np.mean(errors <= arguments.tol)) if asked.metric == "output"
                else None,
                "max": float(errors.max()),
                "agreement": float(np.mean(found.argmax(1) == truth.argmax(1))),
                "test_error": float(np.mean(found.argmax(1) != digits.labels)),
            })  # fmt: skip
    print(f"reference: test error {wrong:.2%} on {len(truth)} digits, solved by "
          f"{reference.method}, self-check {reference.self_check:.1e}\n")  # fmt: skip
    print("| file | solver | NFE | certified bound | digits within tol | largest error "
          "| same class as reference | test error |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        within = "–" if row["within"] is None else f"{row['within']:.2%}"
        print(f"| {row['format']} | {row['solver']} | {row['nfe']} | {row['bound']:.2e} "
              f"| {within} | {row['max']:.2e} | {row['agreement']:.2%} "
              f"| {row['test_error']:.2%} |")  # fmt: skip
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    name = "digits" if arguments.metric == "output" else f"digits-{arguments.metric}"
    path = results / f"{name}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, arguments.model: rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
