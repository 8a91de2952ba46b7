"""Escape text for tables and cards: Markdown, LaTeX, CSV and links. Names and reasons may come from anybody."""

import re
from urllib.parse import quote

from tapir_exp.core.text import escape_controls

_MARKDOWN = re.compile(r"[\\`*|<>\[\]~$&!]|(?<!\w)_|_(?!\w)")
"""Characters that Markdown, its tables and the formulas of GitHub read; an underscore inside a word is text."""
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "–": "--",
    "α": r"$\alpha$",
    "δ": r"$\delta$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters of a cell that spreadsheets read as a formula."""
_URL_SAFE = "/:.?=&-_~,;@+()!"


def escape_markdown(value: object) -> str:
    """Return a value as text of one line that Markdown shows as it is, also in a cell of a table."""
    return _MARKDOWN.sub(r"\\\g<0>", _one_line(value))


def markdown_code(value: object) -> str:
    """Return a value as a code span, with more backticks around it than it holds in a row."""
    text = _one_line(value)
    fence = "`" * (_longest_run(text, "`") + 1)
    space = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{fence}{space}{text}{space}{fence}"


def escape_latex(value: object) -> str:
    """Return a value as text of one line for LaTeX, also at the beginning of a row of a table."""
    text = "".join(_LATEX.get(character, character) for character in _one_line(value))
    # After \\, a bracket would be the argument of the line break, and a star a variant of it.
    return f"{{}}{text}" if text.startswith(("[", "*")) else text


def escape_csv(value: object) -> object:
    """Return a cell that no spreadsheet runs as a formula; numbers and None stay as they are."""
    if not isinstance(value, str):
        return value
    text = escape_controls(value)
    return f"'{text}" if value.startswith(_FORMULA) else text


def escape_url(link: str) -> str:
    """Return a relative link with every character quoted that Markdown, LaTeX or HTML could read."""
    return quote(link, safe=_URL_SAFE, errors="replace")


def _one_line(value: object) -> str:
    return escape_controls(" ".join(str(value).split()))


def _longest_run(text: str, character: str) -> int:
    return max((len(run) for run in re.findall(f"{re.escape(character)}+", text)), default=0)
