"""The README and the docs do what they say: their Python runs, their commands exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = Path(sys.executable).with_name("odedeploy")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


SCRIPTS = [
    pytest.param(page, i, id=f"{page.stem}-{i}")
    for page in PAGES
    for i in range(len(blocks(page, "python run")))
]
COMMANDS = [
    pytest.param(line, id=f"{page.stem}: {line[:60]}")
    for page in PAGES
    for block in blocks(page, "sh")
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("odedeploy ")
]


@pytest.fixture()
def workplace(tmp_path: Path) -> Path:
    for example in (ROOT / "examples").iterdir():
        if example.is_file():
            shutil.copy(example, tmp_path)
    return tmp_path


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("page, index", SCRIPTS)
def test_python_of_the_docs_runs(page: Path, index: int, workplace: Path) -> None:
    (workplace / "snippet.py").write_text(
        "import sys; sys.path.insert(0, '.')\n" + blocks(page, "python run")[index]
    )
    done = run([sys.executable, "snippet.py"], workplace)
    assert done.returncode == 0, done.stderr


def test_model_in_the_readme_is_the_example() -> None:
    shown = blocks(PAGES[0], "python")
    assert any(block == (ROOT / "examples" / "my_model.py").read_text() for block in shown)


def test_own_model_by_the_commands_of_the_readme(workplace: Path) -> None:
    lines = [c.values[0] for c in COMMANDS if "my_model" in c.values[0]]
    assert lines
    for line in lines:
        words = shlex.split(line)[1:]
        words += ["--budget", "20"] if words[0] == "export" else []
        done = run([str(COMMAND), *words], workplace)
        assert done.returncode == 0, done.stderr
    assert (workplace / "pendulum.onnx").is_file()


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_docs_take_the_options_shown(line: str, tmp_path: Path) -> None:
    words = [w for w in shlex.split(line, comments=True)[1:] if not w.startswith("[")]
    done = run([str(COMMAND), words[0], "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    for option in (w for w in words if w.startswith("-")):
        assert re.search(rf"(^|[\s,]){option}\b", done.stdout), f"{option} in {line!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
