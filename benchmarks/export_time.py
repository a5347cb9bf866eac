"""Seconds from a PyTorch model to a verified file, against exporting the unrolled module.

"odedeploy" is capture + lowering + verification (300 inputs) of mnist-odenet; "naive" is
``torch.onnx.export`` of the same plan unrolled in PyTorch, without any verification. Each runs in
a process of its own, imports included in "naive" and "odedeploy" alike.

    python benchmarks/export_time.py [--nfe 16 64 256]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def plan_of(nfe: int):  # type: ignore[no-untyped-def]
    from odedeploy.grid import Grid
    from odedeploy.program import Plan, solve_plan
    from odedeploy.solvers import find

    return Plan((solve_plan("solve0", find("rk4"), Grid.uniform(0, 1, nfe // 4)),))


def ours(nfe: int, path: Path) -> dict[str, float]:
    import numpy as np

    from odedeploy import api
    from odedeploy.formats import find
    from odedeploy.frontends import live
    from odedeploy.graph import input_specs, output_specs
    from odedeploy.verification import verify

    loaded = api.load_model("mnist-odenet")
    plan, form = plan_of(nfe), find("onnx")
    inputs = {"image": loaded.inputs["image"][:300]}
    began = time.monotonic()
    graph = api.capture(loaded.module, inputs)
    captured = time.monotonic()
    form.build(graph, plan, "unrolled").write(path, {})
    lowered = time.monotonic()
    expected = live(graph).run(plan, inputs, "float32").outputs
    verification = verify(
        form.open(path), inputs, expected, expected, expected_inputs=input_specs(graph.model),
        expected_outputs=output_specs(graph.model), tol=1e-2,
    )  # fmt: skip
    assert verification, verification.failures
    ended = time.monotonic()
    return {
        "capture": captured - began, "lower": lowered - captured, "verify": ended - lowered,
        "total": ended - began, "export_error": float(np.max(verification.export_error)),
    }  # fmt: skip


def naive(nfe: int, path: Path) -> dict[str, float]:
    import torch

    from odedeploy import api, executor

    loaded = api.load_model("mnist-odenet")
    model, program = loaded.module.requires_grad_(False), plan_of(nfe).solves[0].program

    class Unrolled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            def field(t: torch.Tensor, states: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
                return (self.model.field(t, states[0]),)

            (trajectory,) = executor.solve(program, field, (self.model.stem(image),))
            return self.model.head(trajectory[-1])

    image = torch.from_numpy(loaded.inputs["image"][:2])
    began = time.monotonic()
    torch.onnx.export(
        Unrolled().eval(), (image,), path, dynamo=True, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False,
    )  # fmt: skip
    return {"total": time.monotonic() - began}


def measured(which: str, nfe: int, limit: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        command = [sys.executable, __file__, "--one", which, "--nfe", str(nfe), "--path", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return {"over": limit}
        if done.returncode:
            raise SystemExit(done.stderr)
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return {**result, "bytes": path.stat().st_size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nfe", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one naive export")
    parser.add_argument("--one", choices=["ours", "naive"], help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        result = {"ours": ours, "naive": naive}[arguments.one](arguments.nfe[0], arguments.path)
        print(json.dumps(result))
        return
    print("| NFE | capture, s | lower, s | verify, s | odedeploy, s | naive, s | naive ÷ odedeploy "
          "| file, kB | naive file, kB |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    rows = []
    for nfe in arguments.nfe:
        a, b = measured("ours", nfe, 600.0), measured("naive", nfe, arguments.limit)
        rows.append({"nfe": nfe, "odedeploy": a, "naive": b})
        more, total = ("> ", b["over"]) if "over" in b else ("", b["total"])
        size = f"{b['bytes'] / 1e3:.0f}" if "bytes" in b else ""
        print(f"| {nfe} | {a['capture']:.1f} | {a['lower']:.2f} | {a['verify']:.1f} "
              f"| {a['total']:.1f} | {more}{total:.1f} | {more}{total / a['total']:.1f} "
              f"| {a['bytes'] / 1e3:.0f} | {size} |", flush=True)  # fmt: skip
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "export_time.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
