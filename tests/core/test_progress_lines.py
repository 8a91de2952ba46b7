"""Lines about the progress of a stage in a log."""

import io
import time

import pytest

from tapir_exp.core import console, progress_lines
from tapir_exp.core.console import Progress, Terminal
from tapir_exp.core.progress_lines import counted_spend, format_duration, format_progress


@pytest.mark.parametrize(
    ("done", "rate", "spent", "line"),
    [
        (1234, 12.34, 1.5, "  rows: 1,234 of 5,000 (25%), 12.3 a second, 5 min left, spent $1.50"),
        (5, 0.05, 0.0, "  rows: 5 of 5,000 (0%), 3 a minute, 27 h 45 min left"),
        (10, 0.001, None, "  rows: 10 of 5,000 (0%), 0.06 a minute, 57.8 days left, price unknown"),
        (0, 0.0, 0.01, "  rows: 0 of 5,000 (0%), none in the last 1 min, spent $0.0100"),
        (4999, 2.0, 0.0, "  rows: 4,999 of 5,000 (100%), 2 a second, 0 s left"),
    ],
)
def test_line_has_rate_remaining_time_and_spend(done: int, rate: float, spent: float | None, line: str) -> None:
    assert format_progress("rows", done, 5000, rate, spent) == line


def test_duration_has_two_units_at_most() -> None:
    assert [format_duration(seconds) for seconds in (29, 61, 7500, 400_000)] == [
        "29 s",
        "1 min",
        "2 h 5 min",
        "4.6 days",
    ]


def test_log_gets_a_line_each_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(console, "console", Terminal(log))
    monkeypatch.setattr(progress_lines, "INTERVAL_S", 0.02)
    with counted_spend(lambda: 1.0), counted_spend(lambda: 0.5), Progress("rows", 10) as progress:
        progress.advance(4)
        time.sleep(0.09)
    lines = log.getvalue().splitlines()
    assert 2 <= len(lines) <= 4
    assert all("rows: 4 of 10 (40%)" in line and "spent $1.50" in line for line in lines)
    assert "none in the last" in lines[-1]
    with Progress("", 0):
        time.sleep(0.05)
    assert log.getvalue().splitlines() == lines


def test_unknown_price_of_one_stage_is_that_of_all() -> None:
    with counted_spend(lambda: 1.0), counted_spend(lambda: None):
        assert progress_lines.spent_so_far() is None
    assert progress_lines.spent_so_far() == 0
