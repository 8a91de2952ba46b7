"""The page of a sweep: it stands alone, and it can be read without eyes and without a mouse."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from tapir_exp.report.sweep.comparison import load_sweep
from tapir_exp.report.sweep.page import render_page


class Reader(HTMLParser):
    """Collects the start tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, *names: str) -> list[dict[str, str | None]]:
        """The attributes of every tag of these names."""
        return [attrs for tag, attrs in self.tags if tag in names]


@pytest.fixture
def page(ablation: Path) -> str:
    (ablation / "arm-tapir_seed-3" / "manifest.json").unlink()
    return render_page(load_sweep(ablation))


@pytest.fixture
def reader(page: str) -> Reader:
    found = Reader()
    found.feed(page)
    return found


def test_headings_go_down_one_level_at_a_time(reader: Reader) -> None:
    levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))


def test_every_header_cell_says_what_it_heads(reader: Reader) -> None:
    assert {attrs.get("scope") for attrs in reader.all("th")} == {"col", "row"}


def test_every_table_can_be_scrolled_by_keyboard_and_has_a_name(reader: Reader) -> None:
    scrolled = [attrs for attrs in reader.all("div") if attrs.get("class") == "scroll"]
    assert len(scrolled) == len(reader.all("table"))
    assert all(attrs.get("tabindex") == "0" and attrs.get("role") == "region" for attrs in scrolled)
    names = [attrs.get("aria-label") for attrs in scrolled]
    assert len(set(names)) == len(names)


def test_every_drawing_has_words(reader: Reader) -> None:
    drawings = reader.all("svg")
    assert len(drawings) == 2 + 3
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert all(attrs.get("aria-labelledby") in ids and attrs.get("aria-describedby") in ids for attrs in drawings)


def test_every_section_is_reached_from_the_top(reader: Reader) -> None:
    sections = [attrs["id"] for attrs in reader.all("section")]
    links = [(attrs["href"] or "")[1:] for attrs in reader.all("a") if (attrs["href"] or "").startswith("#")]
    assert links == sections


def test_no_file_is_loaded_from_elsewhere(page: str, reader: Reader) -> None:
    assert not reader.all("script", "link", "img", "iframe", "object")
    assert not re.search(r"url\(|@import", page)
