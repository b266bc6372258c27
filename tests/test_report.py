"""The report is one page that loads nothing, holds every number, and says nothing that names or settings inject."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from fake_comparison import fake_comparison
from matplotlib.figure import Figure

import landscape.report
from landscape.comparison import Comparison
from landscape.errors import InputError
from landscape.plots import comparison_captions, comparison_figures
from landscape.plots.labels import metric, number
from landscape.report import report_key, write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}
DRAWN = {"line", "circle"}
NAN = float("nan")


class Page(HTMLParser):
    """A parsed page: its tags with attributes, the texts of its elements, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.styles: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append((tag, values))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        elif tag == "script":
            self.scripts.append((values, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID | DRAWN
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self.open[-1:] == ["style"]:
            self.styles.append(data)
        else:
            self.text += data
            if {"th", "td"} & set(self.open):
                self.rows[-1][-1] += data

    def row(self, start: str) -> list[str]:
        """The cells of the first row whose head starts so."""
        return next(cells for cells in self.rows if cells and " ".join(cells[0].split()).startswith(start))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return fake_comparison(tmp_path_factory.mktemp("report"), seeds=2)


@pytest.fixture(scope="module")
def page(comparison: Comparison) -> Page:
    return Page(write_report(comparison, key="k1").read_text(encoding="utf-8"))


@pytest.fixture
def few_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one still picture, where a test is about something else."""

    def only_profiles(comparison: Comparison) -> dict[str, Figure]:
        return {name: f for name, f in comparison_figures(comparison).items() if name == "profiles"}

    monkeypatch.setattr(landscape.report, "comparison_figures", only_profiles)


def test_page_is_whole_and_accessible(page: Page, comparison: Comparison) -> None:
    assert page.open == []
    assert ("html", {"lang": "en"}) in page.tags
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for tag, a in page.tags if tag == "a"} <= set(ids)
    images = [a for tag, a in page.tags if tag == "img"]
    assert len(images) == len(comparison_figures(comparison))
    assert all(len(a["alt"]) > 40 for a in images)
    assert all("scope" in a for tag, a in page.tags if tag == "th")
    for caption in comparison_captions(comparison).values():
        assert caption in page.text


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, name)
        assert "style" not in attributes or "url(" not in attributes["style"]
    assert not re.search(r"url\(|@import|http", "".join(page.styles))
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_plotly_is_there_once_and_its_figures_are_json(page: Page) -> None:
    sources = [text for _, text in page.scripts if "plotly.js" in text[:400]]
    assert len(sources) == 1
    figures = {a["id"]: json.loads(text) for a, text in page.scripts if a.get("type") == "application/json"}
    assert set(figures) == {"data-embedding", "data-surfaces"}
    places = {a.get("id") for _, a in page.tags}
    assert {name.replace("data-", "plot-") for name in figures} <= places
    assert all(set(f) >= {"data", "layout"} for f in figures.values())


def test_size_stays_reasonable(comparison: Comparison) -> None:
    assert comparison.report.stat().st_size < 10_000_000


def test_main_table_holds_every_number_with_its_interval(page: Page, comparison: Comparison) -> None:
    s = comparison.summary
    for i, key in enumerate(s.metrics):
        known = metric(key)
        head, *cells = page.row(f"{known.name} {known.symbol}".strip())
        assert s.scales[i] in head
        assert ("not invariant" in head) == (known.invariant is False and known.section == "Flatness")
        for j, cell in enumerate(cells[: len(s.groups)]):
            for value in (s.center[i, j], s.low[i, j], s.high[i, j]):
                assert known.write(value) in cell
    assert "invariant" in page.row("adaptive sharpness")[0]


def test_pair_table_holds_every_number(page: Page, comparison: Comparison) -> None:
    s = comparison.pair_summary
    columns = [metric(key) for key in s.metrics]
    heads = page.row("Pair of optimizers")[1:]
    for j, group in enumerate(s.groups):
        cells = page.row(group)[1:]
        for i, known in enumerate(columns):
            cell = cells[next(k for k, head in enumerate(heads) if head.strip().startswith(known.name))]
            assert known.write(s.center[i, j]) in cell
            assert (known.write(s.low[i, j]) in cell) == bool(np.isfinite(s.low[i, j]))


def test_all_solutions_are_listed(page: Page, comparison: Comparison) -> None:
    for solution, flat in zip(comparison.solutions, comparison.flatness, strict=True):
        cells = page.row(solution.label)
        assert cells[1] == number(solution.train_loss)
        assert cells[3] == number(solution.test_loss)
        assert cells[5] == f"{number(flat.trace)} ± {number(flat.trace_stderr, 2)}"
        assert cells[9] == number(solution.norm)
        assert cells[-1] == solution.status


def test_what_was_run_is_said(page: Page, comparison: Comparison) -> None:
    for text in (
        "1,078 train, 359 validation, 360 test",
        "landscape compare digits-mlp --seeds 2",
        "torch 2.13.0",
    ):
        assert text in page.text
    for name, recipe in comparison.settings["optimizers"].items():
        assert page.row(name)[1] == recipe


def test_same_records_give_the_same_bytes(comparison: Comparison, page: Page, few_figures: None) -> None:
    first = write_report(comparison, key="k1").read_bytes()
    assert write_report(comparison, key="k1").read_bytes() == first


def test_figures_lie_beside_the_page(page: Page, comparison: Comparison) -> None:
    names = sorted(p.name for p in (comparison.directory / "figures").iterdir())
    assert names == sorted(f"{n}.{kind}" for n in comparison_figures(comparison) for kind in ("png", "svg"))
    inside = next(a["src"] for t, a in page.tags if t == "img" and a["alt"].startswith("Flatness of every"))
    content = base64.b64decode(inside.removeprefix("data:image/svg+xml;base64,"))
    assert content == (comparison.directory / "figures" / "flatness.svg").read_bytes()


def test_large_pictures_go_in_as_png(
    comparison: Comparison, few_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landscape.report, "LARGEST_SVG", 10)
    images = [
        a["src"] for tag, a in Page(write_report(comparison).read_text(encoding="utf-8")).tags if tag == "img"
    ]
    assert [source[:22] for source in images] == ["data:image/png;base64,"]


@pytest.mark.parametrize("key", ["", "abc123", 'a"b<c>&amp;'])
def test_key_comes_back(comparison: Comparison, few_figures: None, key: str) -> None:
    assert report_key(write_report(comparison, key=key)) == key


def test_key_of_what_is_no_report(tmp_path: Path) -> None:
    assert report_key(tmp_path / "none.html") is None
    assert report_key(tmp_path) is None
    (tmp_path / "other.html").write_text("<html></html>")
    assert report_key(tmp_path / "other.html") is None


def test_hostile_names_are_only_text(tmp_path: Path, few_figures: None) -> None:
    names = ["<script>alert(1)</script>", 'a$b$ & "q"']
    hostile = fake_comparison(tmp_path, optimizers=names, seeds=2, problem="</title><script>x</script>")
    text = write_report(hostile).read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert len([a for a, _ in page.scripts if not a]) == 2  # plotly.js and the few lines that start it
    assert "<script>alert" not in text
    assert "<script>x" not in text
    for name in names:
        assert page.row(name)[1].startswith(name)
    figure = json.loads(next(text for a, text in page.scripts if a.get("id") == "data-embedding"))
    assert figure["data"][0]["name"] == "&lt;script&gt;alert(1)&lt;/script&gt;"


def test_figures_cannot_leave_their_script() -> None:
    text = landscape.report._interactive(go.Figure(layout={"title": "</script><!--&"}))
    assert not re.search("[<>&]", text)
    assert json.loads(text)["layout"]["title"]["text"] == "</script><!--&"


def test_single_solution(tmp_path: Path) -> None:
    page = Page(
        write_report(fake_comparison(tmp_path, optimizers=["sgd"], seeds=1)).read_text(encoding="utf-8")
    )
    assert page.open == []
    assert "1 solution of digits-mlp" in " ".join(page.text.split())
    assert not any(a.get("id") in ("barriers", "position") for _, a in page.tags)
    assert page.row("train loss")[1].startswith(
        number(fake_comparison(tmp_path, optimizers=["sgd"], seeds=1).summary.center[0, 0])
    )


def test_missing_numbers_are_dashes(comparison: Comparison, tmp_path: Path, few_figures: None) -> None:
    first, *rest = comparison.solutions
    lost = dataclasses.replace(first, test_loss=NAN, test_accuracy=NAN, status="")
    s = comparison.summary
    center, low = s.center.copy(), s.low.copy()
    row = s.metrics.index("test_loss")
    center[row, 0] = low[row, 0] = low[row, 1] = NAN
    changed = dataclasses.replace(
        comparison,
        directory=tmp_path,
        solutions=(lost, *rest),
        flatness=comparison.flatness[1:],
        summary=dataclasses.replace(s, center=center, low=low),
    )
    page = Page(write_report(changed).read_text(encoding="utf-8"))
    assert page.row("sgd/0")[3:9] == ["–"] * 6
    assert page.row("sgd/0")[-1] == "–"
    cells = page.row("test loss")
    assert cells[1] == "–"
    assert cells[2] == number(center[row, 1])
    assert not re.search(r"\bnan\b|\bNone\b", page.text)


def test_unknown_metrics_and_bare_settings(comparison: Comparison, tmp_path: Path, few_figures: None) -> None:
    renamed = dataclasses.replace(comparison.summary, metrics=("odd_thing", *comparison.summary.metrics[1:]))
    bare = dataclasses.replace(comparison, directory=tmp_path, settings={}, summary=renamed, embedding=None)
    page = Page(write_report(bare).read_text(encoding="utf-8"))
    assert number(renamed.center[0, 0]) in page.row("odd thing")[1]
    assert "digits-mlp" in page.text
    assert page.row("sgd")[1] == "–"


def test_directory_that_cannot_be_written(comparison: Comparison, tmp_path: Path, few_figures: None) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_report(dataclasses.replace(comparison, directory=tmp_path / "file"))
