"""One plan of mnist-odenet in every runtime that is usable here, beside onnxruntime.

RK4 × 4, batch 1, one thread. Differences are the largest relative one of an input between a
runtime's answers and onnxruntime's, on 64 test images. Latencies are taken in fresh processes, in
interleaved rounds, and compared round by round. A runtime that crashes costs its own line.

    python benchmarks/runtimes.py [--seconds 30] [--runtimes OpenVINO …] [--folder FOLDER]

Files in FOLDER are not built again; with ``--seconds 0`` they are built and no more. Updates what
benchmarks/results/runtimes.json and the table in docs/targets.md say of these runtimes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from odedeploy import api, formats, profiling
from odedeploy.errors import OdeDeployError
from odedeploy.grid import Grid
from odedeploy.profiling import Entry
from odedeploy.program import Plan, solve_plan
from odedeploy.runtime import GOLDEN
from odedeploy.solvers import find as find_solver
from odedeploy.targets import Target
from odedeploy.targets import find as find_target
from odedeploy.tolerance import worst_error
from odedeploy.verification import golden

ROOT = Path(__file__).parents[1]
BASE = "onnxruntime"
BEGIN, END = "<!-- runtimes -->", "<!-- /runtimes -->"
STEPS, IMAGES = 4, 64


def targets() -> dict[str, Target]:
    """One target a line of the table, onnxruntime first, all under one name and on one thread."""
    torchscript = find_target("torchscript-1t")
    chosen = {
        BASE: find_target("cpu-1t"),
        "OpenVINO": find_target("openvino-1t"),
        "TorchScript": torchscript,
        "torch.export": replace(torchscript, format="pt2"),
        "torch.compile": find_target("torch-compile"),
        "AOTInductor": replace(torchscript, format="aoti"),
        "ExecuTorch": find_target("executorch"),
        "LiteRT": find_target("litert"),
        "onnxruntime-node": find_target("node"),
        "onnxruntime-web": find_target("wasm"),
    }
    return {label: replace(t, name="one thread", threads=1) for label, t in chosen.items()}


def answer(label: str, file: str, inputs: str, outputs: str) -> None:
    """Run a file on the inputs of an .npz and keep its answers; a process of its own does this."""
    target = targets()[label]
    model = formats.find(target.format).open(file, 1, target.opening)
    np.savez(outputs, **model.run(dict(np.load(inputs))))


def answers(label: str, file: Path, inputs: Path) -> dict[str, np.ndarray]:
    outputs = file.with_suffix(".answers.npz")
    arguments = ["--answer", label, str(file), str(inputs), str(outputs)]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise OdeDeployError(words[-1])
    return dict(np.load(outputs))


def built(
    folder: Path, wanted: list[str]
) -> tuple[dict[str, Path], dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """The files by label, what is known of each, and the images."""
    loaded = api.load_model("mnist-odenet")
    graph = api.capture(loaded.module, loaded.inputs)
    plan = Plan((solve_plan("solve0", find_solver("rk4"), Grid.uniform(0.0, 1.0, STEPS)),))
    images = {"image": loaded.inputs["image"][:IMAGES]}
    files: dict[str, Path] = {}
    found: dict[str, dict[str, Any]] = {}
    made: dict[str, Path] = {}
    for label, target in targets().items():
        if label not in (BASE, *wanted):
            continue
        room = formats.find(target.format)
        found[label] = {"format": target.format}
        try:
            if target.format not in made:
                path = folder / f"{target.format}{room.suffix}"
                taken = path.with_name(path.name + ".seconds")
                if not path.exists():
                    room.ready()
                    began = time.perf_counter()
                    artefact = room.build(graph, plan, "unrolled")
                    artefact.write(path, {})
                    taken.write_text(f"{time.perf_counter() - began:.1f}")
                    artefact.write(path, {GOLDEN: golden(room.open(path), images).pack()})
                found[label]["build_s"] = float(taken.read_text())
                made[target.format] = path
            files[label] = made[target.format]
            found[label]["bytes"] = files[label].stat().st_size
        except OdeDeployError as error:
            found[label]["reason"] = str(error)
        print(label, found[label], file=sys.stderr, flush=True)
    return files, found, images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--runtimes", nargs="*", default=list(targets()))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--answer", nargs=4, metavar=("LABEL", "FILE", "INPUTS", "OUTPUTS"))
    arguments = parser.parse_args()
    if arguments.answer:
        answer(*arguments.answer)
        return
    with tempfile.TemporaryDirectory(prefix="odedeploy-") as scratch:
        folder = arguments.folder or Path(scratch)
        files, found, images = built(folder, arguments.runtimes)
        if not arguments.seconds:
            return
        inputs = Path(scratch) / "inputs.npz"
        np.savez(inputs, **images)
        whole: dict[str, Any] = {}
        for label, file in files.items():
            try:
                whole[label] = answers(label, file, inputs)
            except OdeDeployError as error:
                found[label]["reason"] = str(error)
                continue
            apart = worst_error(whole[label], whole[BASE])
            found[label]["difference"] = float(f"{apart.max():.2g}")
        queries = [{"image": images["image"][i : i + 1]} for i in range(16)]
        entries = [
            Entry(file, "mnist-odenet", targets()[label], None, targets()[label].format,
                  "unrolled", "fp32", "rk4", 4 * STEPS, None, queries)
            for label, file in files.items()
        ]  # fmt: skip
        result = profiling.profile(entries, (), arguments.seconds, timeout=300)
    for label, row in zip(files, result.rows, strict=True):
        if not row.measured:
            found[label]["reason"] = row.reason
            continue
        found[label] |= {
            "ms": round(row.latency_ms.p50 or 0.0, 3),
            "cpu_ratio": round((row.cpu_seconds or 0.0) / (result.rows[0].cpu_seconds or 1.0), 3),
            "load_ms": round(row.load_ms or 0.0, 1),
            "first_ms": round(row.first_ms or 0.0, 1),
            "peak_mb": round(row.peak_memory_mb or 0.0),
            **({} if row.ratio is None else {
                "ratio": round(row.ratio.value, 3),
                "interval": [round(row.ratio.low, 3), round(row.ratio.high, 3)],
            }),
        }  # fmt: skip
    kept = ROOT / "benchmarks/results/runtimes.json"
    known = json.loads(kept.read_text())["runtimes"] if kept.exists() else {}
    found = {label: (known | found)[label] for label in targets() if label in known | found}
    written = {"machine": result.machine, "nfe": 4 * STEPS, "runtimes": found}
    print(json.dumps(written, indent=1))
    kept.write_text(json.dumps(written, indent=1) + "\n")
    page = ROOT / "docs/targets.md"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    page.write_text(before + BEGIN + "\n" + table(found) + END + rest.split(END)[1], "utf-8")


def table(found: dict[str, dict[str, Any]]) -> str:
    titles = ("runtime", "format", "largest difference", "latency", "CPU time", "file", "load",
              "memory")  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for label, row in found.items():
        if "reason" in row:
            lines.append(f"| {label} | `{row['format']}` | {row['reason']} | | | | | |")
            continue
        ratio = "1" if "ratio" not in row else (
            f"{row['ratio']:.2f} ({row['interval'][0]:.2f} to {row['interval'][1]:.2f})"
        )  # fmt: skip
        cells = (label, f"`{row['format']}`", f"{row['difference']:.1g}", ratio,
                 f"{row['cpu_ratio']:.2f}", f"{row['bytes'] / 1e3:,.0f} KB",
                 f"{row['load_ms']:.0f} ms", f"{row['peak_mb']} MB")  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
