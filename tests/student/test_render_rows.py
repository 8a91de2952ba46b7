"""Rendered rows, in colour and without."""

import io
from dataclasses import replace

from rich.console import Console

from tapir_exp.commands.inspect import print_inspection
from tapir_exp.student.render_rows import Inspection, SampledRow, Token, render_row, summary_lines

ROW = SampledRow(
    7,
    (
        Token("<s>", 1, supervised=False, end=False),
        Token(" Say\n", None, supervised=False, end=False),
        Token("\x1b[2J", None, supervised=True, end=False),
        Token("</s>", 2, supervised=True, end=True),
    ),
    cut=False,
)
INSPECTION = Inspection(10, 2, 1, 400, 90, 100, 10, 2, "</s>", (ROW,))


def printed(*, terminal: bool, no_color: bool = False) -> str:
    out = io.StringIO()
    system = "truecolor" if terminal else None
    print_inspection(INSPECTION, Console(file=out, force_terminal=terminal, color_system=system, no_color=no_color))
    return out.getvalue()


def test_supervised_tokens_are_in_brackets_without_colour() -> None:
    header, *lines = render_row(ROW, coloured=False).plain.split("\n")
    assert header == "row 7: 4 tokens, 2 supervised, complete"
    assert lines == ["¦<s>#1¦·Say⏎", "[\\u001b[2J][</s>#2<end]"]


def test_pipe_and_no_color_get_brackets() -> None:
    for output in (printed(terminal=False), printed(terminal=True, no_color=True)):
        assert "\x1b" not in output
        assert "[</s>#2<end]" in output


def test_terminal_gets_colour_for_supervised_tokens() -> None:
    output = printed(terminal=True)
    assert "\x1b[32m\\u001b[2J\x1b[0m" in output
    assert "\x1b[2m<s>#1\x1b[0m" in output
    assert "\x1b[1;7;32m</s>#2<end\x1b[0m" in output
    assert "\x1b[2J" not in output


def test_summary_lines_hold_all_figures() -> None:
    assert list(summary_lines(INSPECTION)) == [
        "rows          10 (2 truncated), 1 more dropped",
        "tokens        mean 40.0, max 90",
        "supervised    25.0% of all tokens",
        "BOS           exactly one, at the beginning of every row",
        "end of turn   2 </s>",
    ]


def test_summary_warns_about_a_wrong_bos() -> None:
    assert "WRONG: 3 rows" in "".join(summary_lines(replace(INSPECTION, one_bos=7)))
    assert "has none" in "".join(summary_lines(replace(INSPECTION, one_bos=None)))
