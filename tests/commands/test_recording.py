"""Start and end of a job in its events."""

import errno
from pathlib import Path

import pytest

from tapir_exp.commands.recording import recorded_end, recorded_job
from tapir_exp.core import events
from tapir_exp.core.events import EVENTS, Event, EventStream, Kind, Pruned, read_events
from tapir_exp.core.secrets import HIDDEN

KEY = "sk-proj-0123456789abcdef"


@pytest.fixture
def stream(tmp_path: Path) -> EventStream:
    return EventStream(tmp_path / EVENTS)


def recorded(tmp_path: Path) -> list[Event]:
    return [
        {name: value for name, value in event.items() if name not in ("time", "pid")}
        for event in read_events(tmp_path / EVENTS)
    ]


def test_finished_job_records_start_own_events_and_result(stream: EventStream, tmp_path: Path) -> None:
    with recorded_job(stream) as fields:
        events.record(Kind.FIGURES, figures={})
        fields.update(key="k", figure="accuracy", value=0.5)
    assert recorded(tmp_path) == [
        {"event": Kind.RUN_STARTED},
        {"event": Kind.FIGURES, "figures": {}},
        {"event": Kind.RUN_FINISHED, "key": "k", "figure": "accuracy", "value": 0.5},
    ]


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (ValueError("no rows"), {"event": Kind.RUN_FAILED, "reason": "no rows"}),
        (ValueError(), {"event": Kind.RUN_FAILED, "reason": "ValueError"}),
        (ValueError(f"refused {KEY}"), {"event": Kind.RUN_FAILED, "reason": f"refused {HIDDEN}"}),
        (KeyboardInterrupt(), {"event": Kind.RUN_STOPPED}),
        (Pruned(2, "accuracy", 0.1), {"event": Kind.RUN_PRUNED, "figure": "accuracy", "value": 0.1}),
    ],
    ids=["failed", "without a text", "secret", "stopped", "pruned"],
)
def test_job_that_ends_early_records_how(stream: EventStream, tmp_path: Path, error: BaseException, end: Event) -> None:
    with pytest.raises(type(error)), recorded_job(stream):
        raise error
    assert recorded(tmp_path) == [{"event": Kind.RUN_STARTED}, end]


def test_full_disk_is_recorded_with_its_remedy(stream: EventStream, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="28"), recorded_end(stream):
        raise OSError(errno.ENOSPC, "28")
    (end,) = recorded(tmp_path)
    assert "no space" in end["reason"]


def test_error_remains_if_its_record_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="first"), recorded_end(EventStream(tmp_path / "no" / "such" / EVENTS)):
        raise ValueError("first")


def test_block_that_ends_well_records_no_end(stream: EventStream, tmp_path: Path) -> None:
    with recorded_end(stream):
        pass
    assert recorded(tmp_path) == []
