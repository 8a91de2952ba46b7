"""A row as a person reads it, in colour and without."""

import io
from dataclasses import replace

from rich.console import Console

from tapir_exp.commands.inspect_rows import print_inspection
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
TOLD = Inspection(10, 2, 1, 400, 90, 100, 10, 2, "</s>", (ROW,))


def printed(*, terminal: bool, no_color: bool = False) -> str:
    out = io.StringIO()
    system = "truecolor" if terminal else None
    print_inspection(TOLD, Console(file=out, force_terminal=terminal, color_system=system, no_color=no_color))
    return out.getvalue()


def test_without_colour_brackets_tell_the_mask() -> None:
    header, *lines = render_row(ROW, coloured=False).plain.split("\n")
    assert header == "row 7: 4 tokens, 2 supervised, whole"
    assert lines == ["¦<s>#1¦·Say⏎", "[\\u001b[2J][</s>#2<end]"]


def test_a_pipe_and_no_color_get_brackets_and_no_colour() -> None:
    for said in (printed(terminal=False), printed(terminal=True, no_color=True)):
        assert "\x1b" not in said
        assert "[</s>#2<end]" in said


def test_a_terminal_gets_colour_for_what_is_supervised() -> None:
    said = printed(terminal=True)
    assert "\x1b[32m\\u001b[2J\x1b[0m" in said
    assert "\x1b[2m<s>#1\x1b[0m" in said
    assert "\x1b[1;7;32m</s>#2<end\x1b[0m" in said
    assert "\x1b[2J" not in said


def test_the_figures_are_told() -> None:
    assert list(summary_lines(TOLD)) == [
        "rows          10, of which truncated 2; dropped besides 1",
        "tokens        mean 40.0, max 90",
        "supervised    25.0% of all tokens",
        "BOS           exactly one, at the beginning of every row",
        "end of turn   2 </s>",
    ]


def test_a_wrong_bos_is_told() -> None:
    assert "WRONG: 3 rows" in "".join(summary_lines(replace(TOLD, one_bos=7)))
    assert "has none" in "".join(summary_lines(replace(TOLD, one_bos=None)))
