from __future__ import annotations

import csv
import io
import json
import re
import struct
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from profiles import profile

from odedeploy.errors import BadInput
from odedeploy.profiling import Profile, pareto, plot, report, scales, words, write

FILES = {"profile.json", "profile.csv", "pareto.png", "pareto.svg", "report.html"}
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Outline(HTMLParser):
    """Checks that tags nest, and collects references, ids and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.labels: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = {name: value or "" for name, value in attrs}
        self.references += [v for k, v in values.items() if k in ("src", "href", "xlink:href")]
        self.labels += [values["aria-label"]] if "aria-label" in values else []
        self.ids += [values["id"]] if "id" in values else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_json_gives_the_same_profile_back() -> None:
    before = profile()
    text = json.dumps(before.to_json(), allow_nan=False)
    assert Profile.from_json(json.loads(text)) == before


def test_json_keeps_the_contract_of_a_row() -> None:
    data = profile().to_json()
    fields = {"model", "tol", "target", "precision", "format", "form", "solver", "nfe", "error"}
    fields |= {"latency_ms", "throughput", "peak_memory_mb", "bytes", "pareto"}
    for row in (*data["rows"], *data["baselines"]):
        assert fields <= row.keys()
        assert list(row["latency_ms"]) == ["p50", "p90", "p99"]
    assert {"machine", "rows", "baselines"} <= data.keys()


def test_json_writes_numbers_that_are_not_finite_as_none() -> None:
    before = profile()
    data = replace(before, rows=(replace(before.rows[0], error=float("inf")),)).to_json()
    assert data["rows"][0]["error"] is None


@pytest.mark.parametrize("damage", [{}, {"rows": [{}]}, {"rows": 3}, {"machine": 1}])
def test_what_is_no_profile_is_refused(damage: dict[str, object]) -> None:
    data = {**profile().to_json(), **damage} if damage else {}
    with pytest.raises(BadInput, match="not a profile"):
        Profile.from_json(data)


def test_csv_holds_every_row_flat() -> None:
    before = profile()
    lines = list(csv.DictReader(io.StringIO(before.to_csv())))
    rows = [*before.rows, *before.baselines]
    assert [line["kind"] for line in lines] == ["artefact"] * 7 + ["baseline"] * 2
    for line, row in zip(lines, rows, strict=True):
        assert None not in line
        assert line["solver"] == row.solver
        assert line["latency_ms_p99"] == ""
        for name, value in (
            ("latency_ms_p50", row.latency_ms.p50),
            ("latency_interval_ms_high", row.latency_interval_ms and row.latency_interval_ms[1]),
            ("error_report_bound", row.error_report and row.error_report.bound),
            ("error", row.error),
        ):
            assert (float(line[name]) if line[name] else None) == value
    assert lines[0]["pareto"] == "True"


def test_the_page_is_whole_and_loads_nothing() -> None:
    page = report.html(profile())
    outline = Outline(page)
    assert outline.open == []
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    assert all(reference.startswith("#") for reference in outline.references)
    assert all(target in outline.ids for target in re.findall(r"url\(#([^)]*)\)", page))
    assert len(set(outline.ids)) == len(outline.ids)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_the_page_tells_the_headline_figures() -> None:
    before = profile()
    outline = Outline(report.html(before))
    text = re.sub(r"\s+", " ", outline.words)
    assert "mnist-odenet within 0.01 takes 3.2 ms on cpu: rk4 with 12 evaluations" in text
    assert "15.6 × as fast as the PyTorch solve (95 % interval 14.1 to 17.2)" in text
    for expected in (
        "Some Processor",
        "Warning. The machine was busy.",
        "At least 99 % of inputs keep an error of 0.001 or less.",
        "broken.onnx",
        "The worker died of SIGSEGV during 'open'.",
        "0, 0.333333, 0.666667, 1",
        "861.2 kB",
        "n/a",
    ):
        assert expected in text
    assert any("on the Pareto front" in label for label in outline.labels)
    assert len(words.headlines(before.rows)) == 6


def test_the_page_escapes_what_comes_from_outside() -> None:
    before = profile()
    evil = "<script>alert('$1_{')</script>"
    rows = tuple(replace(row, model=evil, reason=evil, file=evil) for row in before.rows)
    page = report.html(replace(before, rows=rows))
    assert evil not in page
    assert Outline(page).tags.count("script") == 1


@pytest.mark.parametrize("count", [0, 1])
def test_a_page_and_a_plot_of_little_or_nothing(count: int) -> None:
    before = profile()
    little = replace(before, rows=(*before.rows[:count], before.rows[-1]), baselines=())
    assert Outline(report.html(little)).open == []
    assert plot.png(little).startswith(b"\x89PNG")


def test_the_plot_has_the_promised_size() -> None:
    image = plot.png(profile())
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", image[16:24]) == (1200, 800)
    assert 20_000 < len(image) < 500_000


def test_labels_cover_neither_points_nor_each_other() -> None:
    figure = plot.figure(profile(), plot.INK)
    (axes,) = figure.axes
    renderer = figure.canvas.get_renderer()
    labels = [text for text in axes.texts if " · " in text.get_text()]
    boxes = [text.get_window_extent(renderer) for text in labels]
    points = [
        axes.transData.transform((row.error, row.latency_ms.p50))
        for row in (*profile().rows, *profile().baselines)
        if row.measured
    ]
    assert sorted(text.get_text() for text in labels) == sorted(
        ["4 · heun2", "12 · rk4", "24 · rk4", "62 · dopri5"] * 2
    )
    frame = axes.get_window_extent(renderer)
    for index, box in enumerate(boxes):
        assert frame.contains(*box.min)
        assert frame.contains(*box.max)
        assert not any(box.padded(3).contains(x, y) for x, y in points)
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_the_front_is_drawn_once_per_target() -> None:
    (axes,) = plot.figure(profile(), plot.INK).axes
    edge = axes.get_xlim()[1]
    fronts = [line for line in axes.get_lines() if line.get_xdata()[-1] == edge]
    corners = [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in fronts]
    assert corners == [
        [(6.2e-4, a), (0.0081, a), (0.0081, b), (0.07, b), (0.07, c), (edge, c)]
        for a, b, c in ((6.3, 3.2, 1.3), (6.3 * 1.25, 3.2 * 1.25, 1.3 * 1.25))
    ]
    tolerances = [text.get_text() for text in axes.texts if text.get_text().startswith("tol")]
    assert sorted(tolerances) == ["tol 1e-1", "tol 1e-2", "tol 1e-3"]


def test_an_error_of_zero_is_drawn() -> None:
    before = profile()
    exact = replace(before, rows=(replace(before.rows[0], error=0.0), *before.rows[1:]))
    (axes,) = plot.figure(exact, plot.INK).axes
    assert axes.get_xlim()[0] < scales.EXACT < axes.get_xlim()[1]


def test_the_front_is_marked_in_the_profile() -> None:
    rows = profile().rows
    assert [row.pareto for row in rows] == [True] * 6 + [False]
    slower = replace(rows[0], error=0.09, latency_interval_ms=(5.0, 6.0))
    assert [row.pareto for row in pareto.mark([*rows, slower])] == [True] * 6 + [False] * 2


def test_write_makes_all_files(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "profile"
    paths = write(profile(), folder)
    assert {path.name for path in paths} == FILES == {path.name for path in folder.iterdir()}
    assert Profile.from_json(json.loads((folder / "profile.json").read_text())) == profile()


def test_a_write_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    (tmp_path / "profile.json").write_text("before")
    with pytest.raises(BadInput, match=r"report\.html"):
        write(profile(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "profile.json"}
    assert (tmp_path / "profile.json").read_text() == "before"


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be made"):
        write(profile(), tmp_path / "file" / "profile")
