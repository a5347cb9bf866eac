"""The report in a browser: what a person does with it, and what a screen reader finds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from profiles import profile, row

from odedeploy.profiling import Percentiles, Profile, pareto, report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

ACTIONS = (Path(__file__).parent / "page_actions.js").read_text()


def told(page: str, folder: Path, width: int, dark: bool) -> dict:
    """What the actions found on the page, in a frame of a width in pixels."""
    (folder / "report.html").write_text(page.replace("</body>", f"<script>{ACTIONS}</script>"))
    (folder / "frame.html").write_text(
        f'<body><iframe src="report.html" width="{width}" height="900"></iframe><script>'
        "onmessage = (e) => { document.body.append(Object.assign("
        "document.createElement('pre'), { id: 'told', textContent: e.data })); }</script>"
    )
    done = subprocess.run(
        [str(CHROMIUM), "--no-sandbox", "--headless=new", "--disable-gpu",
         f"--user-data-dir={folder / 'browser'}", "--allow-file-access-from-files",
         f"--window-size={max(width, 500) + 50},1000", "--virtual-time-budget=4000",
         f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom",
         (folder / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def rich_profile() -> Profile:
    """The made-up profile with lower precision, a network without a solve, and a device."""
    before = profile()
    low = replace(row("cpu", 0.8, 0.1), precision="int8", file="mnist-odenet-0.1-int8.onnx",
                  command="odedeploy export mnist-odenet --tol 0.1")  # fmt: skip
    plain = replace(
        row("cpu", 1.0, 1e-3), model="mnist-resnet", solver="none", nfe=0, error=1e-7, plan={},
        file="mnist-resnet.onnx",
    )  # fmt: skip
    far = replace(before.rows[3], device="pi", latency_ms=Percentiles(9.0, None, None),
                  latency_interval_ms=(8.9, 9.2))  # fmt: skip
    rows = pareto.mark([*before.rows, low, plain, far])
    return replace(before, rows=rows, devices={"pi": {"cpu": "Cortex-A76"}})


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize(
    ("width", "dark"),
    [(390, True), pytest.param(1280, False, marks=pytest.mark.slow)],
)
def test_the_page_in_a_browser(tmp_path: Path, width: int, dark: bool) -> None:
    found = told(report.html(rich_profile()), tmp_path, width, dark)
    assert "error" not in found
    assert found["dark"] is dark
    assert found["width"], "the page scrolls sideways"
    assert found["inside"]
    assert found["panels"] == 3
    assert found["count"] == "11 of 11 rows"
    assert 0 < found["filtered"] < 11
    assert found["front"]
    assert (found["ascending"], found["descending"], found["sort"]) == (True, True, "ascending")
    assert found["zoomed"] == pytest.approx(1.5, rel=0.02)
    assert found["reset"] == pytest.approx(1.0, rel=0.02)
    assert found["key"] == pytest.approx(1.5, rel=0.02)
    assert found["tipShown"]
    assert "evaluations" in found["tip"]
    assert found["after"]
    assert found["focused"]
    assert found["timeline"] == 4
    for words in ("certificate", "keep an error", "evaluations from t = 0 to 1"):
        assert words in found["chosen"]
    assert found["labels"] >= 3
    assert not found["overlaps"]
    assert found["small"] == 0
    assert found["contrast"] >= 4.5


def test_the_page_works_without_its_script() -> None:
    """Points are links to the plans, and every one of them is there."""
    page = report.html(rich_profile())
    links = re.findall(r'<a class="point[^>]*href="#(row-\d+)"', page)
    assert len(links) == 10  # all measured rows with an error but that of the plain network
    assert all(f'<details id="{link}">' in page for link in links)
    assert 'class="level' in page


def test_readers_of_the_page_find_names_for_everything() -> None:
    page = report.html(rich_profile())
    assert page.count("<table") == page.count("<caption")
    assert len(re.findall(r"<svg(?![^>]*(aria-label|aria-hidden))", page)) == 0
    assert len(re.findall(r'<a class="point(?![^>]*aria-label)', page)) == 0
    assert len(re.findall(r"<th(?![^>]*scope)[ >]", page)) == 0
    for control in re.findall(r"<button[^>]*>(.*?)</button>", page):
        assert control.strip()
    levels = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_what_lost_is_told_with_what_beat_it() -> None:
    page = re.sub(r"\s+", " ", report.html(rich_profile()))
    slower = replace(row("cpu", 2.0, 0.1), precision="int8", file="slow.onnx")
    whole = rich_profile()
    lost = report.html(replace(whole, rows=pareto.mark([*whole.rows, slower])))
    assert "What lost, and why" in lost
    assert "int8 does not pay here" not in page
    assert "instead of 2.55 to 2.68" in lost
