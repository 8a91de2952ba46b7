"""Read the HTML of reports in tests."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

from tapir_exp.report.run_page import write_report

VOID = {"meta", "br", "link", "input"}


class Outline(HTMLParser):
    """Tags, ids and links of a page; `open` holds the tags that are not closed at the end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(run_dir: Path) -> str:
    """Write the report of a run and return its HTML."""
    return write_report(run_dir).read_text()


def plain(html: str) -> str:
    """Return the text of a page without tags, with single spaces."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())
