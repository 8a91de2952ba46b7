"""Tests of the sweep page: files, self-containedness, and accessibility by keyboard and screen reader."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tapir_exp.report.sweep.comparison import load_sweep
from tapir_exp.report.sweep.page import render_page, write_sweep_report
from tapir_exp.report.sweep.plan_file import SweepPlan

MakeRun = Callable[..., Path]


class Reader(HTMLParser):
    """Collect the start tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, *names: str) -> list[dict[str, str | None]]:
        """Return the attributes of each tag with one of these names."""
        return [attrs for tag, attrs in self.tags if tag in names]


@pytest.fixture
def page(ablation: Path) -> str:
    (ablation / "arm-tapir_seed-3" / "manifest.json").unlink()
    return render_page(load_sweep(ablation))


@pytest.fixture
def reader(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_write_sweep_report_writes_its_files(ablation: Path) -> None:
    assert write_sweep_report(ablation) == ablation / "index.html"
    svg = ElementTree.parse(ablation / "comparison.svg").getroot()
    style = svg.find("{http://www.w3.org/2000/svg}style")
    assert style is not None
    assert "prefers-color-scheme" in (style.text or "")
    assert (ablation / "comparison.md").read_text().startswith("| arm |")
    assert (ablation / "comparison.csv").read_text().startswith("arm,jobs,")


def test_sweep_over_one_number_has_a_file_of_its_curve(ablation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sweep_report(ablation)
    assert not (ablation / "curve.svg").exists()
    monkeypatch.setattr("tapir_exp.report.sweep.page.draw_curve", lambda _: '<svg xmlns="http://www.w3.org/2000/svg"/>')
    write_sweep_report(ablation)
    assert "prefers-color-scheme" in (ablation / "curve.svg").read_text()


def test_write_sweep_report_is_deterministic(ablation: Path) -> None:
    names = ("comparison.md", "comparison.csv", "comparison.svg", "runs.csv", "index.html")
    write_sweep_report(ablation)
    first = [(ablation / name).read_bytes() for name in names]
    write_sweep_report(ablation)
    assert [(ablation / name).read_bytes() for name in names] == first


def test_head_counts_finished_and_planned_jobs(ablation: Path) -> None:
    assert "TAPIR sweep · 9 jobs\n" in render_page(load_sweep(ablation))
    jobs = [[f"arm={arm}", f"seed={seed}"] for arm in "abc" for seed in range(4)]
    SweepPlan(jobs).write(ablation)
    assert "TAPIR sweep · 9 of 12 jobs finished\n" in render_page(load_sweep(ablation))
    (ablation / "arm-tapir_seed-3" / "manifest.json").unlink()
    SweepPlan(jobs[:2]).write(ablation)
    assert "TAPIR sweep · 8 of 9 jobs finished\n" in render_page(load_sweep(ablation))


def test_markdown_of_one_seed_has_no_intervals(fake_run: MakeRun) -> None:
    for arm in ("tapir", "lion"):
        run = fake_run(name=f"sweep/{arm}", arm=arm, seed=1, size=40)
    write_sweep_report(run.parent)
    row = (run.parent / "comparison.md").read_text().splitlines()[3]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == "lion"
    assert cells[4] == "–"
    assert cells[6:9] == ["–", "–", "–"]


def test_markdown_states_if_training_tokens_are_equal(fake_run: MakeRun, ablation: Path) -> None:
    write_sweep_report(ablation)
    assert "Training tokens are equal" in (ablation / "comparison.md").read_text()
    fake_run(name="sweep/arm-vanilla_sft_seed-1", arm="vanilla_sft", seed=1, rounds=0, size=40)
    write_sweep_report(ablation)
    assert "Training tokens differ" in (ablation / "comparison.md").read_text()


def test_page_escapes_arm_names(fake_run: MakeRun) -> None:
    run = fake_run(name="sweep/one", arm="<i>arm</i>", seed=1, size=40)
    assert "<i>arm" not in render_page(load_sweep(run.parent))


def test_headings_descend_one_level_at_a_time(reader: Reader) -> None:
    levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))


def test_header_cells_have_a_scope(reader: Reader) -> None:
    assert {attrs.get("scope") for attrs in reader.all("th")} == {"col", "colgroup", "row"}


def test_tables_are_focusable_and_have_unique_names(reader: Reader) -> None:
    scrolled = [attrs for attrs in reader.all("div") if attrs.get("class") == "scroll"]
    assert len(scrolled) == len(reader.all("table"))
    assert all(attrs.get("tabindex") == "0" and attrs.get("role") == "region" for attrs in scrolled)
    names = [attrs.get("aria-label") for attrs in scrolled]
    assert len(set(names)) == len(names)


def test_charts_have_a_title_and_a_description(reader: Reader) -> None:
    charts = reader.all("svg")
    assert len(charts) == 2 + 3
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert all(attrs.get("aria-labelledby") in ids and attrs.get("aria-describedby") in ids for attrs in charts)


def test_navigation_links_to_every_section(reader: Reader) -> None:
    sections = [attrs["id"] for attrs in reader.all("section")]
    links = [(attrs["href"] or "")[1:] for attrs in reader.all("a") if (attrs["href"] or "").startswith("#")]
    assert links == sections


def test_page_loads_no_other_file(page: str, reader: Reader) -> None:
    assert not reader.all("script", "link", "img", "iframe", "object")
    assert not re.search(r"url\(|@import", page)
