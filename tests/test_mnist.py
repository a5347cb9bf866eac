"""The reference model from its command to the app that embeds its file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import odedeploy
from odedeploy import models
from odedeploy.models import mnist

ROOT = Path(__file__).parents[1]
COMMAND = Path(sys.executable).with_name("odedeploy")


def export(path: Path, *options: str, model: str = "mnist-odenet") -> dict:  # type: ignore[type-arg]
    done = subprocess.run(
        [COMMAND, "export", model, "--tol", "1e-2", "-o", path, "--json", *options],
        capture_output=True, text=True, cwd=path.parent, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest: dict = json.loads(done.stdout)  # type: ignore[type-arg]
    return manifest


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:  # type: ignore[type-arg]
    """A file of a given plan, certified on few digits."""
    path = tmp_path_factory.mktemp("mnist") / "m.onnx"
    return path, export(path, "--solver", "ab3_midpoint", "--nfe", "14", "--samples", "120")


def test_file_of_the_reference_model(quick: tuple[Path, dict]) -> None:  # type: ignore[type-arg]
    path, manifest = quick
    assert manifest["plan"]["nfe"] == 14
    assert manifest["error"]["bound"] <= 1e-2 and manifest["export_error"] <= 1e-5
    assert "299 are needed" in manifest["promise"]
    model = onnx.load(path)
    assert {n.domain for n in model.graph.node} == {""}
    large = [i.name for i in model.graph.initializer if np.prod(i.dims) >= 64 * 64]
    assert len(large) == 4, large
    parameters = models.card("mnist-odenet")["parameters"]
    assert path.stat().st_size < 1.25 * 4 * parameters
    assert not re.search(rb"/work|/home|/root|/tmp|site-packages|\.py\b", path.read_bytes())


def test_labels_of_held_out_digits(quick: tuple[Path, dict]) -> None:  # type: ignore[type-arg]
    path, _ = quick
    digits = mnist.shipped()
    images = digits.images[:500, None].astype(np.float32) / 255
    logits = odedeploy.load(path)(images)
    assert np.mean(logits.argmax(1) == digits.labels[:500]) >= 0.98


def test_app_reads_digits_without_torch(quick: tuple[Path, dict]) -> None:  # type: ignore[type-arg]
    path, _ = quick
    code = (
        "import sys, runpy\n"
        "for name in ('torch', 'onnx', 'onnx_ir', 'scipy', 'typer'): sys.modules[name] = None\n"
        f"sys.argv = ['read_digits.py', {str(path)!r}]\n"
        f"runpy.run_path({str(ROOT / 'examples' / 'read_digits.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"is a \d ", done.stdout)) == 4


@pytest.mark.slow
def test_cheapest_certified_file(tmp_path: Path) -> None:
    manifest = export(tmp_path / "m.onnx")
    assert manifest["error"]["bound"] <= 1e-2 and manifest["plan"]["nfe"] <= 16
    assert (manifest["error"]["coverage"], manifest["error"]["confidence"]) == (0.99, 0.95)


@pytest.mark.slow
def test_the_smooth_model_takes_at_most_three_fifths_of_the_evaluations(tmp_path: Path) -> None:
    counts = [
        export(tmp_path / f"{model}.onnx", "--solver", "classical", model=model)["plan"]["nfe"]
        for model in ("mnist-odenet", "mnist-odenet-smooth")
    ]
    assert counts[1] <= 0.6 * counts[0]


def test_an_ordinary_network_goes_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "mlp.onnx"
    manifest = export(path, "--samples", "120", model="mnist-mlp")
    assert manifest["plan"] | {"nfe": 0, "sites": []} == manifest["plan"]
    assert manifest["error"]["bound"] <= 1e-5
    digits = mnist.shipped()
    logits = odedeploy.load(path)(mnist.pixels(digits.images[:500]))
    assert np.mean(logits.argmax(1) == digits.labels[:500]) >= 0.97
    shown = subprocess.run(
        [COMMAND, "inspect", path], capture_output=True, text=True, check=True
    ).stdout
    assert "an ordinary network, which solves no ODE" in shown
