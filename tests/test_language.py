"""Tests of the language of docstrings and pages: no sentence has more than 25 words."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_WORDS = 25
MODULES = sorted(
    path for folder in ("tapir_exp", "hydra_plugins", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
PAGES = sorted(
    [*ROOT.glob("docs/**/*.md"), *(ROOT / name for name in ("README.md", "CHANGELOG.md")), *ROOT.glob("*/README.md")]
)
SECTIONS = re.compile(r"^\s*(?:Args|Returns|Raises|Yields|Attributes|Example):\s*$", re.MULTILINE)
ENTRY = re.compile(r"^ +\w+: ", re.MULTILINE)
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
TABLE_OR_HEADING = re.compile(r"^\s*[|#!].*$", re.MULTILINE)
PARAGRAPH = re.compile(r"\n\s*\n(?:\s*[-*] )?|\n\s*(?:[-*]|\d+\.) ")
LINK = re.compile(r"\]\([^)]*\)")
SENTENCE_END = re.compile(r"(?<=[.!?:;])\**\s+(?=[A-Z`*\[(])")


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text; code, tables and headings have none."""
    prose = TABLE_OR_HEADING.sub("", BLOCK.sub("", text))
    for paragraph in PARAGRAPH.split(prose):
        yield from SENTENCE_END.split(LINK.sub("]", " ".join(paragraph.split())))


def count_words(sentence: str) -> int:
    """Return the number of words; code counts as one."""
    return sum(re.search(r"\w", word) is not None for word in re.sub(r"`[^`]*`", "code", sentence).split())


def docstrings(module: Path) -> Iterator[str]:
    """Yield the docstrings of a module, of its classes, functions and attributes; each entry is a paragraph."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield ENTRY.sub("\n\n", SECTIONS.sub("\n\n", node.value.value))


def long_sentences(texts: Iterator[str]) -> list[str]:
    """Return the sentences that are too long."""
    return [line for text in texts for line in sentences(text) if count_words(line) > MAX_WORDS]


@pytest.mark.parametrize("folder", ["tapir_exp", "hydra_plugins", "benchmarks"])
def test_docstrings_have_short_sentences(folder: str) -> None:
    modules = [module for module in MODULES if module.relative_to(ROOT).parts[0] == folder]
    assert modules
    found = {str(module.relative_to(ROOT)): long_sentences(docstrings(module)) for module in modules}
    assert not {name: lines for name, lines in found.items() if lines}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_have_short_sentences(page: Path) -> None:
    assert not long_sentences(iter([page.read_text(encoding="utf-8")]))


def test_long_sentence_is_found() -> None:
    long = "A sentence " + "of many words " * 8 + "ends here."
    assert long_sentences(iter([f"# Title\n\nShort.\n\n- {long}\n"])) == [long]
    assert not long_sentences(iter([f"```\n{long}\n```\n\n| {long} |\n"]))
