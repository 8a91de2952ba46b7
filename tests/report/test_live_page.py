"""The page of a run is there from its first stage on, and says how the run ended if it did not finish."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapir_exp.core.events import EventStream, Kind
from tapir_exp.report import live_page as live_page_module
from tapir_exp.report.live_page import live_page
from tapir_exp.report.templates import REPORT


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[EventStream]:
    monkeypatch.setattr(live_page_module, "INTERVAL_S", -100.0)  # written after each event
    stream = EventStream()
    with stream.active():
        yield stream


def test_page_exists_before_the_first_stage_and_grows(stream: EventStream, tmp_path: Path) -> None:
    with live_page(tmp_path, "lab: <i>tapir</i>", 2) as page:
        page._due = 0.0
        assert "lab: &lt;i&gt;tapir" in (tmp_path / REPORT).read_text()
        stream.record(Kind.STAGE_STARTED, stage="student-0")
        for step in range(1, 9):
            stream.record(Kind.TRAINING_STEP, step=step, steps=8, tokens=100 * step, loss=3 / step, learning_rate=0.1)
        stream.record(Kind.STAGE_FINISHED, stage="seeds", seconds=3.25, figures={"rows": 1234})
        stream.record(Kind.CALLS, stage="expansions-1", calls=17, cached=0, usd=0.1)
        stream.record(Kind.SPEND, calls=90, cached=2, tokens=5, usd=0.25)
        stream.record(
            Kind.ROUND_FINISHED, round=0, metrics={"round": 0, "benchmark/accuracy": 0.4567, "gap/mean": None}
        )
        page.write()
        text = (tmp_path / REPORT).read_text()
    for shown in ("seeds", "3.2", "1\u202f234", "17 paid calls", "$0.2500", "0.4567", "1 of 3 students", "<svg"):
        assert shown in text
    assert "refresh" in text


@pytest.mark.parametrize(
    ("error", "shown"), [(ValueError("no <key>"), "no &lt;key&gt;"), (KeyboardInterrupt(), "was stopped")]
)
def test_page_of_a_run_that_ends_early_says_so(
    stream: EventStream, tmp_path: Path, error: BaseException, shown: str
) -> None:
    with pytest.raises(type(error)), live_page(tmp_path, "lab", 2):
        raise error
    text = (tmp_path / REPORT).read_text()
    assert shown in text
    assert "refresh" not in text


def test_page_is_not_written_at_every_event(tmp_path: Path) -> None:
    stream = EventStream()
    with stream.active(), live_page(tmp_path, "lab", 2):
        (tmp_path / REPORT).unlink()
        for _ in range(100):
            stream.record(Kind.STAGE_REUSED, stage="seeds", figures={})
        assert not (tmp_path / REPORT).exists()
