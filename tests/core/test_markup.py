"""Cells of tables and cards show foreign text as it is, and run nothing of it."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.core.markup import escape_csv, escape_latex, escape_markdown, escape_url, markdown_code


@pytest.mark.parametrize(
    ("text", "markdown", "latex"),
    [
        ("natural_mix", "natural_mix", r"natural\_mix"),
        (r"\input{/etc/passwd}", r"\\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("a | b", r"a \| b", r"a \textbar{} b"),
        ("a\n\nb\\\\", r"a b\\\\", r"a b\textbackslash{}\textbackslash{}"),
        ("<b>x", r"\<b\>x", r"\textless{}b\textgreater{}x"),
        ("[x](http://y)", r"\[x\](http://y)", r"{}[x](http://y)"),
        ("![x](y) *b* _i_ `c` $x$", r"\!\[x\](y) \*b\* \_i\_ \`c\` \$x\$", r"![x](y) *b* \_i\_ `c` \$x\$"),
        ("* a", r"\* a", "{}* a"),
        ("&lt; 50 % #1 ~", r"\&lt; 50 % #1 \~", r"\&lt; 50 \% \#1 \textasciitilde{}"),
        ("a\x1b[2J\u202eb", r"a\\x1b\[2J\\u202eb", r"a\textbackslash{}x1b[2J\textbackslash{}u202eb"),
        (12.5, "12.5", "12.5"),
    ],
)  # fmt: skip
def test_text_of_a_cell_is_escaped(text: object, markdown: str, latex: str) -> None:
    assert escape_markdown(text) == markdown
    assert escape_latex(text) == latex


@given(st.text())
def test_no_text_ends_a_cell_or_a_line(text: str) -> None:
    for escape in (escape_markdown, escape_latex, markdown_code):
        assert len(escape(text).splitlines()) <= 1
    markdown = escape_markdown(text)
    assert all(markdown[:place].endswith("\\") for place, sign in enumerate(markdown) if sign in "|<>[]`")
    latex = escape_latex(text)
    assert "\\input" not in latex
    assert latex.replace("\\{", "").replace("\\}", "").count("{") == latex.replace("\\{", "").replace("\\}", "").count(
        "}"
    )
    assert not latex.startswith(("[", "*"))


@pytest.mark.parametrize(("text", "code"), [("a", "`a`"), ("a`b", "``a`b``"), ("``x``", "``` ``x`` ```"), ("", "`  `")])
def test_code_span_is_longer_than_its_backticks(text: str, code: str) -> None:
    assert markdown_code(text) == code


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1"])
def test_no_cell_of_csv_is_a_formula(text: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([escape_csv(text)])
    (row,) = csv.reader(io.StringIO(out.getvalue()))
    assert row[0].startswith("'")


@pytest.mark.parametrize("value", ["lion · seed 3", "a=b", "", 1.5, -2, None, True])
def test_ordinary_cell_of_csv_is_unchanged(value: object) -> None:
    assert escape_csv(value) == value


def test_link_cannot_end_its_brackets() -> None:
    assert escape_url("../one/evaluation.json") == "../one/evaluation.json"
    assert escape_url("../a> ](x)\n%{}\\\x1b") == "../a%3E%20%5D(x)%0A%25%7B%7D%5C%1B"
