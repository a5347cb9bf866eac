"""Everything that a GPU is for, checked and measured in under eight minutes on one of NVIDIA's.

mnist-odenet by RK4 × 1, × 4 and × 16, at batches of 1 and 64, in onnxruntime (CUDA, CUDA graph,
TensorRT) and in PyTorch (TorchScript, torch.compile), beside the CPU. Every answer is held against
onnxruntime's on the CPU before anything is timed; TF32 is off.

    python benchmarks/gpu.py [-o benchmarks/results/gpu.json] [--minutes 8]

The file is a profile, which ``odedeploy profile --merge`` reads, with the checks added. Ends with 3
where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from odedeploy import api, formats, profiling, targets
from odedeploy.errors import OdeDeployError
from odedeploy.grid import Grid
from odedeploy.profiling import Entry
from odedeploy.program import Plan, solve_plan
from odedeploy.solvers import find as find_solver
from odedeploy.targets import Target, usable
from odedeploy.tolerance import worst_error

STEPS = (1, 4, 16)
BATCHES = (1, 64)
ALIKE = 1e-4
"""Largest relative difference of an answer from the CPU's, in float32 without TF32."""

CHECKED = 64
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")


def chosen() -> list[Target]:
    """The CPU for comparison, and every way onto the GPU."""
    torchscript, compiled = targets.find("torchscript"), targets.find("torch-compile")
    cuda = {"device": "cuda"}
    return [
        targets.find("cpu"),
        targets.find("cuda"),
        targets.find("cuda-graph"),
        targets.find("tensorrt"),
        replace(torchscript, name="torchscript-cuda", options=cuda, variant="cuda"),
        replace(compiled, name="torch-compile-cuda", options={**compiled.options, **cuda}),
    ]


def refusal() -> str | None:
    """Why nothing can be measured here, as a sentence."""
    try:
        gpu()
    except (OSError, subprocess.CalledProcessError):
        return "There is no NVIDIA GPU here: nvidia-smi does not answer; run this where there is."
    problems = [usable(targets.find(name)) for name in ("cuda", "cuda-graph", "tensorrt")]
    found = [problem for problem in problems if problem]
    return found[0] if len(found) == len(problems) else None


def gpu() -> dict[str, str]:
    fields = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm")
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    values = done.stdout.splitlines()[0].split(", ")
    return dict(zip(fields, values, strict=True))


def files(folder: Path) -> tuple[dict[tuple[int, str], Path], np.ndarray]:
    """An artefact for every number of steps and format, and the images."""
    loaded = api.load_model("mnist-odenet")
    graph = api.capture(loaded.module, loaded.inputs)
    made = {}
    for steps in STEPS:
        plan = Plan((solve_plan("solve0", find_solver("rk4"), Grid.uniform(0.0, 1.0, steps)),))
        for name in sorted({target.format for target in chosen()}):
            room = formats.find(name)
            made[steps, name] = folder / f"{steps}{room.suffix}"
            room.build(graph, plan, "unrolled").write(made[steps, name], {})
    return made, loaded.inputs["image"]


def answer(name: str, file: str, images: str, outputs: str) -> None:
    """Run a file on a target; a process of its own does this."""
    target = next(t for t in chosen() if t.name == name)
    model = formats.find(target.format).open(file, target.threads, target.opening)
    image = np.load(images)
    first = model.run({"image": image})
    again = model.run({"image": image[::-1]})
    single = model.run({"image": image[:1]})
    for key, array in first.items():
        if not np.allclose(array, again[key][::-1], atol=1e-3):
            raise OdeDeployError("a second run answers otherwise: its buffers hold old values")
        if not np.allclose(array[:1], single[key], atol=1e-3):
            raise OdeDeployError("an input alone is answered otherwise than in its batch")
    np.savez(outputs, **first)


def check(target: Target, file: Path, images: Path, seconds: float) -> dict[str, np.ndarray]:
    outputs = file.with_suffix(f".{target.name}.npz")
    arguments = ["--answer", target.name, str(file), str(images), str(outputs)]
    try:
        done = subprocess.run(
            [sys.executable, __file__, *arguments], capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise OdeDeployError(f"no answer within {seconds:.0f} s") from None
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise OdeDeployError(words[-1])
    return dict(np.load(outputs))


def measured(folder: Path, end: float) -> dict[str, Any]:
    made, images = files(folder)
    held = folder / "images.npy"
    np.save(held, images[:CHECKED])
    checks: list[dict[str, Any]] = []
    entries: list[Entry] = []
    cpu: dict[int, dict[str, np.ndarray]] = {}
    for target in chosen():
        for steps in STEPS:
            left = end - 150 - time.monotonic()
            told: dict[str, Any] = {"target": target.name, "nfe": 4 * steps}
            checks.append(told)
            try:
                if left < 5:
                    raise OdeDeployError("left out: the time was spent")
                if problem := usable(target):
                    raise OdeDeployError(problem)
                found = check(target, made[steps, target.format], held, min(left, 90.0))
            except OdeDeployError as error:
                told["reason"] = str(error)
                continue
            cpu.setdefault(steps, found)
            told["difference"] = float(worst_error(found, cpu[steps]).max())
            told["passed"] = told["difference"] <= ALIKE
            if not told["passed"]:
                continue
            for batch in BATCHES:
                queries = [{"image": images[i * batch : (i + 1) * batch]} for i in range(8)]
                on = replace(target, name=f"{target.name}-b{batch}", batch=batch)
                entries.append(Entry(
                    made[steps, target.format], "mnist-odenet", on, None, target.format, "unrolled",
                    "fp32", "rk4", 4 * steps, None, queries,
                ))  # fmt: skip
            print(told, file=sys.stderr, flush=True)
    left = end - time.monotonic()
    result = profiling.profile(entries, None, max(10.0, min(60.0, left - 90)), timeout=60.0)
    result.machine["gpu"] = gpu()
    return {**result.to_json(), "checks": checks}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path,
                        default=Path(__file__).parent / "results" / "gpu.json")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--answer", nargs=4, metavar=("TARGET", "FILE", "IMAGES", "OUTPUTS"))
    arguments = parser.parse_args()
    if arguments.answer:
        answer(*arguments.answer)
        return 0
    if reason := refusal():
        print(reason, file=sys.stderr)
        return 3
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory(prefix="odedeploy-") as folder:
        result = measured(Path(folder), end)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    failed = [c for c in result["checks"] if not c.get("passed")]
    for told in failed:
        print(told, file=sys.stderr)
    return 1 if any("difference" in told for told in failed) else 0


if __name__ == "__main__":
    sys.exit(main())
