"""Whether files answer on ARM64 as they do here: a kit under QEMU, held against golden answers.

mnist-odenet in float32 and int8. Only answers are looked at, never times, which under an emulator
say nothing of a processor. Needs Debian or a system made from it, and its package qemu-user-static.

    python benchmarks/arm64.py [--folder FOLDER]

FOLDER (arm64) keeps a Python for ARM64 with NumPy and onnxruntime, 130 MB that apt-get and pip
bring from where this system has its own, and the exported files; what is there is not made again.
Writes benchmarks/results/arm64.json. Ends with 1 where an answer is wrong, with 3 where something
is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

QEMU = "qemu-aarch64-static"
CPU = "cortex-a72"
"""Of the Raspberry Pi 4. QEMU's own "max" emulates SVE and is several times slower."""

SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
PACKAGES = ("python3", "libstdc++6", "libgomp1", "libgcc-s1")
PLATFORMS = tuple(
    f"manylinux{glibc}_aarch64" for glibc in ("_2_28", "_2_27", "2014", "_2_17")
)
CORE = """processor\t: {core}
BogoMIPS\t: 100.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
"""What /proc/cpuinfo says there. From this machine's own onnxruntime would take it for another
processor, and crash."""

EXPORTS = {
    "mnist-odenet-fp32.onnx": ("--tol", "1e-2", "--budget", "20"),
    "mnist-odenet-int8.onnx": (
        "--tol", "1e-1", "--precision", "int8", "--solver", "rk4", "--samples", "500",
        "--budget", "20",
    ),
}  # fmt: skip


class Missing(Exception):
    """Something that this machine lacks."""


def call(*words: str | Path, **options: Any) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise Missing(f"{words[0]} ended with {done.returncode}: {said[-1]}")


def system(folder: Path) -> Path:
    """A root folder with Python for ARM64, unpacked and not installed; returns the interpreter."""
    root, state = folder / "root", folder / "apt"
    if not list(root.glob("usr/bin/python3.*")):
        if not SOURCES.is_file():
            raise Missing(f"{SOURCES} is not there; this needs Debian")
        for part in ("state/lists/partial", "cache/archives/partial", "sources"):
            (state / part).mkdir(parents=True, exist_ok=True)
        shutil.copy(SOURCES, state / "sources")
        (state / "status").touch()
        settings = {
            "APT::Architecture": "arm64",
            "APT::Architectures::": "arm64",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": state / "sources",
            "Dir::State::lists": state / "state" / "lists",
            "Dir::State::status": state / "status",
            "Dir::Cache": state / "cache",
            "Debug::NoLocking": 1,
        }
        apt = ["apt-get", *(word for k, v in settings.items() for word in ("-o", f"{k}={v}"))]
        call(*apt, "update")
        call(*apt, "install", "-y", "--no-install-recommends", "--download-only", *PACKAGES)
        for package in sorted((state / "cache" / "archives").glob("*.deb")):
            call("dpkg-deb", "-x", package, root)
    (root / "proc").mkdir(exist_ok=True)
    cores = "".join(CORE.format(core=core) for core in range(os.cpu_count() or 1))
    (root / "proc" / "cpuinfo").write_text(cores)
    return min(root.glob("usr/bin/python3.*"), key=lambda path: len(path.name))


def site(folder: Path, python: Path) -> Path:
    """A folder with NumPy and this machine's version of onnxruntime, for ARM64."""
    place = folder / "site"
    if not (place / "onnxruntime").is_dir():
        platforms = [word for name in PLATFORMS for word in ("--platform", name)]
        call(
            sys.executable, "-m", "pip", "install", *platforms, "--only-binary=:all:",
            "--python-version", python.name.removeprefix("python"), "--target", place,
            f"onnxruntime=={version('onnxruntime')}", "numpy",
        )  # fmt: skip
    return place


def kit(folder: Path) -> Path:
    """The folder of a kit with the exported files, unpacked."""
    made = []
    for name, options in EXPORTS.items():
        made.append(folder / name)
        if not made[-1].is_file():
            call(sys.executable, "-m", "odedeploy", "export", "mnist-odenet", *options, "-o",
                 made[-1])  # fmt: skip
    call(sys.executable, "-m", "odedeploy", "kit", *made, "-o", folder / "kit.zip")
    shutil.rmtree(folder / "kit", ignore_errors=True)
    with zipfile.ZipFile(folder / "kit.zip") as archive:
        archive.extractall(folder / "kit")
    return folder / "kit"


def answers(words: Sequence[str | Path], runner: Path, **environment: str) -> dict[str, Any]:
    """What the runner of the kit says of its answers when ``words`` start it."""
    output = runner.parent / "answers.json"
    output.unlink(missing_ok=True)
    done = subprocess.run(
        [*map(str, words), str(runner), "--check", "-o", str(output)], capture_output=True,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    if not output.is_file():
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise Missing(f"{words[0]} gave no answers: {said[-1]}")
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def compared(folder: Path) -> dict[str, Any]:
    qemu = shutil.which(QEMU)
    if qemu is None:
        raise Missing(f"{QEMU} is not there; apt-get install qemu-user-static")
    python = system(folder)
    place, runner = site(folder, python), kit(folder) / "run.py"
    here = answers([sys.executable], runner)
    there = answers([qemu, "-cpu", CPU, "-L", folder / "root", python], runner,
                    PYTHONPATH=str(place))  # fmt: skip
    same = {answer["file"]: answer for answer in here["answers"]}
    files = [
        {**answer, "error_here": same[answer["file"]].get("error")} for answer in there["answers"]
    ]
    emulator = subprocess.run([qemu, "--version"], capture_output=True, text=True).stdout
    return {
        "emulator": emulator.splitlines()[0],
        "emulated": CPU,
        "architecture": there["machine"]["architecture"],
        "versions": {k: v for k, v in there["machine"]["versions"].items() if v is not None},
        "here": here["machine"]["cpu"],
        "files": files,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("arm64"))
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        found = compared(folder)
    except Missing as error:
        print(error, file=sys.stderr)
        return 3
    output = Path(__file__).parent / "results" / "arm64.json"
    output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for file in found["files"]:
        said = file.get("reason") or (
            f"largest difference {file['error']:.3g} on {found['architecture']}, "
            f"{file['error_here']:.3g} here, {file['tolerance']:.3g} allowed"
        )
        print(f"{file['file']}: {said}")
    return 0 if all(file["passed"] for file in found["files"]) else 1


if __name__ == "__main__":
    sys.exit(main())
