"""No text from a model, a file or a path controls the terminal or is read as markup."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from tapir_exp.core import console as console_module
from tapir_exp.core.console import Progress, Terminal, print_stage, print_table, print_warning, write_line
from tapir_exp.core.text import escape_controls

FOREIGN = (
    "a\x1b[2J\x1b]0;title\x07b\x9b31mc\u202ed\u2066e\rf\x00g\ud800h\x7fi [/x] [bold]j[/bold] :smile: [link=http://k]l"
)
SHOWN = (
    r"a\x1b[2J\x1b]0;title\x07b\x9b31mc\u202ed\u2066e\rf\x00g\ud800h\x7fi [/x] [bold]j[/bold] :smile: [link=http://k]l"
)
STRIPPED = SHOWN.replace(r"\x07", "").replace(r"\r", "")
"""rich removes some characters before it renders."""


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Replace the console by one without colour, and return what it writes."""
    out = io.StringIO()
    terminal = Terminal(out)
    terminal.width = 500
    monkeypatch.setattr(console_module, "console", terminal)
    return out


def test_table_of_figures_is_not_cut_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console_module, "console", Terminal(sys.stderr))
    monkeypatch.setenv("COLUMNS", "20")
    print_table("Results", ["", "accuracy", "tokens"], [["S_0", "0.123456", "1,234,567"]])
    assert {"0.123456", "1,234,567", "accuracy"} <= set(
        capsys.readouterr().err.replace("│", " ").replace("┃", " ").split()
    )


def test_every_line_of_a_labelled_job_begins_with_its_label(output: io.StringIO) -> None:
    terminal = console_module.console
    terminal.label, terminal.width = "seed=1", 40
    table = Table("checked", "found")
    table.add_row("disk", "63 GB free")
    terminal.print("two\nlines", soft_wrap=True)
    terminal.print(table)
    terminal.rule("title")
    print_table("Results", ["", "accuracy"], [["S_0", "0.1"]])
    lines = output.getvalue().splitlines()
    assert [line for line in lines if "[seed=1]" not in line] == []
    assert [line.count("[seed=1]") for line in lines] == [1] * len(lines)
    assert max(map(cell_len, lines)) <= 40
    assert [line[9:] for line in lines[:2]] == ["two", "lines"]
    assert any("63 GB free" in line for line in lines)


def test_table_beside_a_label_has_no_lines_if_they_do_not_fit(output: io.StringIO) -> None:
    columns = ["", "α", "rows", "new", "tokens", "loss", "gap", "hard", "acc.", "s.e."]
    row = ["S_1", "0.300", "23333", "0.552", "4047000", "1.124", "4.683", "0.600", "0.024", "0.019"]
    print_table("Results", columns, [row])  # a file has as many columns as `PIPE_WIDTH`
    assert "┃" in output.getvalue()
    output.truncate(0)
    console_module.console.label = "arm=no_refinement seed=1"
    print_table("Results", columns, [row])
    assert max(map(cell_len, output.getvalue().splitlines())) <= 100
    assert set(row) <= set(output.getvalue().split())


def test_escape_controls_keeps_ordinary_text() -> None:
    text = "Où est\tle café?\n你好 שלום مرحبا 👩‍👩‍👧 ±½"
    assert escape_controls(text) == text
    assert escape_controls(FOREIGN) == SHOWN


@pytest.mark.parametrize("way", ["print", "text", "stage", "warning", "table", "rule", "renderable", "progress"])
def test_foreign_text_is_shown_and_does_nothing(output: io.StringIO, way: str) -> None:
    terminal = console_module.console
    match way:
        case "print":
            terminal.print(FOREIGN, soft_wrap=True)
        case "text":
            terminal.print(Text(FOREIGN), soft_wrap=True)
        case "stage":
            print_stage(FOREIGN, {FOREIGN: FOREIGN}, 1, reused=False)
        case "warning":
            print_warning(FOREIGN)
        case "table":
            print_table(FOREIGN, [FOREIGN, "b"], [[FOREIGN, "1"]])
        case "rule":
            terminal.rule(FOREIGN)
        case "renderable":
            table = Table(FOREIGN)
            table.add_row(FOREIGN)
            terminal.print(table)
        case "progress":
            with Progress(FOREIGN, 2) as progress:
                progress.advance()
            terminal.print(progress._bar)
    text = output.getvalue()
    assert escape_controls(text) == text
    assert (STRIPPED[:40] if way in ("renderable", "progress") else STRIPPED) in text


def test_style_of_our_own_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = FakeTerminal()
    Terminal(out).print(Text("a\x1b[2J", "bold"))
    assert out.getvalue() == "\x1b[1ma\\x1b[2J\x1b[0m\n"


@pytest.mark.parametrize(("stream", "expected"), [(FakeTerminal, SHOWN), (io.StringIO, FOREIGN)])
def test_result_lines_are_escaped_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], expected: str
) -> None:
    out = stream()
    monkeypatch.setattr(sys, "stdout", out)
    write_line(FOREIGN)
    assert out.getvalue() == f"{expected}\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise ValueError('a\\x1b[2J')", r"ValueError: a\x1b[2J"),
        ("logging.error('a\\x1b[2J')", r"ERROR:root:a\x1b[2J"),
        ("warnings.warn('a\\x1b[2J')", r"UserWarning: a\x1b[2J"),
        ("threading.Thread(target=lambda: warnings.warn('a\\x1b[2J')).start()", r"UserWarning: a\x1b[2J"),
    ],
    ids=["traceback", "log", "warning", "thread"],
)
def test_messages_of_a_command_are_escaped(code: str, expected: str) -> None:
    program = (
        "import logging, sys, threading, types, warnings\nimport tapir_exp.commands.main as m\n"
        f"def run(_): {code}\n"
        "m.import_module = lambda _: types.SimpleNamespace(main=run)\nsys.argv[1:] = ['report']\nm.main()\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert expected in result.stderr
    assert "\x1b" not in result.stderr


def test_package_reaches_the_terminal_through_one_door() -> None:
    others = [
        path.name
        for path in Path(console_module.__file__).parents[1].rglob("*.py")
        if path.name != "console.py"
        and re.search(r"(?m)^(?!\s*>>>).*(\bConsole\(|markup=True|(?<![\w.])print\()", path.read_text())
    ]
    assert others == ["gguf_server.py"]  # it runs in a process of its own, and prints to a log


FIT = {
    "steps": 1200,
    "tokens": 123456,
    "supervised_tokens": 65432,
    "rows": 1000,
    "truncated": 0,
    "dropped": 0,
    "final_loss": 0.1234567,
    "tokens_per_second": 1234.567,
    "supervised_tokens_per_second": 654.3,
    "mfu": None,
    "peak_memory_mb": 1234.5,
    "spend": {"teacher": {"usd": 0.5}},
}


@pytest.mark.parametrize(("label", "width"), [("", 100), ("seed=2 arm=lion", 100), ("", 80), ("长标签", 100)])
def test_stage_line_does_not_wrap(monkeypatch: pytest.MonkeyPatch, label: str, width: int) -> None:
    out = FakeTerminal()
    terminal = Terminal(out)
    terminal.width, terminal.label = width, label
    monkeypatch.setattr(console_module, "console", terminal)
    print_stage("judged_student-12", FIT, 1234.5, reused=False, spent=12.5)
    (line,) = re.sub(r"\x1b\[[\d;]*m", "", out.getvalue()).splitlines()
    assert cell_len(line) <= width
    assert "final_loss 0.1235" in line
    assert "spend " not in line
    assert line.endswith("1234.5 s  spent $12.50")


@pytest.mark.parametrize(
    ("reused", "spent", "end"),
    [(True, 3.0, "reused"), (False, 0.0, " 2.0 s"), (False, 0.00123, "spent $0.0012"), (False, None, "price unknown")],
)
def test_stage_line_ends_with_time_and_spend(output: io.StringIO, reused: bool, spent: float | None, end: str) -> None:
    print_stage("seeds", {"rows": 3}, 2.0, reused, spent)
    assert output.getvalue().startswith("seeds                rows 3  ")
    assert output.getvalue().rstrip().endswith(end)


def test_lines_of_parallel_jobs_begin_with_their_label(output: io.StringIO) -> None:
    console_module.console.label = "seed=2"
    print_stage("seeds", {}, 1, reused=True)
    print_warning("beware")
    console_module.console.rule("lab: tapir")
    first, second, third = output.getvalue().splitlines()
    assert " [seed=2] lab: tapir " in third
    assert (first.split()[:2], second) == (["[seed=2]", "seeds"], "[seed=2] beware")
