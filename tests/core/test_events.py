"""The events of a run are written as they happen, survive kills, and add up to its outcome."""

from pathlib import Path

import pytest

from tapir_exp.core import events
from tapir_exp.core.events import EVENTS, Event, EventStream, Kind, Outcome, State, outcome_of, read_events


@pytest.fixture
def stream(tmp_path: Path) -> EventStream:
    return EventStream(tmp_path / EVENTS)


def test_event_is_on_disk_when_record_returns(stream: EventStream, tmp_path: Path) -> None:
    stream.record(Kind.STAGE_STARTED, stage="seeds")
    (event,) = read_events(tmp_path / EVENTS)
    assert (event["event"], event["stage"]) == ("stage_started", "seeds")
    assert event["time"] > 1e9


def test_half_a_line_of_a_killed_run_spoils_no_other(stream: EventStream, tmp_path: Path) -> None:
    stream.record(Kind.RUN_STARTED)
    with (tmp_path / EVENTS).open("a") as file:
        file.write('{"time": 1, "event": "stage_st')
    stream.record(Kind.RUN_FINISHED, key="k")
    assert [event["event"] for event in read_events(tmp_path / EVENTS)] == ["run_started", "run_finished"]


@pytest.mark.parametrize("content", [b"", b"[1]\n", b'{"event": 3}\n', b"\xff\xfe\n", b"null"])
def test_read_events_skips_what_is_no_event(tmp_path: Path, content: bytes) -> None:
    (tmp_path / EVENTS).write_bytes(content)
    assert read_events(tmp_path / EVENTS) == []


def test_record_goes_to_the_run_in_progress(stream: EventStream, tmp_path: Path) -> None:
    events.record(Kind.STAGE_STARTED, stage="before")
    with stream.active():
        events.record(Kind.STAGE_STARTED, stage="seeds")
    events.record(Kind.STAGE_STARTED, stage="after")
    assert [event["stage"] for event in read_events(tmp_path / EVENTS)] == ["seeds"]


def test_record_sparsely_leaves_out_events_of_the_same_kind(stream: EventStream, tmp_path: Path) -> None:
    for calls in range(5):
        stream.record_sparsely(Kind.CALLS, 60, lambda calls=calls: {"calls": calls})
    stream.record_sparsely(Kind.SPEND, 60, dict)
    assert [event["event"] for event in read_events(tmp_path / EVENTS)] == ["calls", "spend"]


def test_reader_that_fails_is_left_out(stream: EventStream) -> None:
    seen: list[Event] = []

    def fail(event: Event) -> None:
        raise RuntimeError("no server")

    for reader in (fail, seen.append):
        stream.subscribe(reader)
    stream.record(Kind.RUN_STARTED)
    stream.record(Kind.RUN_STOPPED)
    assert [event["event"] for event in seen] == ["run_started", "run_stopped"]


def event(kind: Kind, time: float, **fields: object) -> Event:
    return {"time": time, "event": str(kind), **fields}


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ([], Outcome()),
        ([event(Kind.RUN_STARTED, 1.0)], Outcome(State.RUNNING, seconds=0.0)),
        (
            [event(Kind.RUN_STARTED, 1.0), event(Kind.STAGE_STARTED, 4.0, stage="seeds")],
            Outcome(State.RUNNING, seconds=3.0),
        ),
        (
            [
                event(Kind.RUN_STARTED, 1.0),
                event(Kind.SPEND, 2.0, usd=0.5, calls=7),
                event(Kind.RUN_FAILED, 3.0, reason="no"),
            ],
            Outcome(State.FAILED, seconds=2.0, usd=0.5, calls=7, reason="no"),
        ),
        (
            [
                event(Kind.RUN_STARTED, 1.0),
                event(Kind.RUN_FAILED, 3.0, reason="no"),
                event(Kind.RUN_STARTED, 100.0),
                event(Kind.RUN_FINISHED, 104.0, key="k", figure="accuracy", value=0.5, usd=None, calls=9),
            ],
            Outcome(State.FINISHED, "k", "accuracy", 0.5, 6.0, 9, None),
        ),
    ],
    ids=["none", "started", "running", "failed", "failed and finished"],
)
def test_outcome_is_that_of_the_last_attempt(stream: list[Event], expected: Outcome) -> None:
    assert outcome_of(stream) == expected


def test_steps_of_other_processes_are_passed_on_once(tmp_path: Path) -> None:
    path = tmp_path / EVENTS
    stream, got = EventStream(path), []
    stream.record(Kind.STAGE_STARTED, stage="student-0")
    stream.subscribe(lambda event: got.append(event.get("step")))
    offset = path.stat().st_size
    rank = EventStream(path)  # as in the process of a rank
    rank.record(Kind.TRAINING_STEP, step=1)
    rank.record(Kind.CALLS, stage="x")
    with path.open("a") as file:
        file.write('{"time": 1, "event": "training_step", "st')  # a line that is not whole yet
    offset = stream.pass_on_steps(offset)
    with path.open("a") as file:
        file.write('ep": 2}\n')
    with stream.active():
        assert events.pass_on_steps(offset) == path.stat().st_size
    assert got == [1, 2]


@pytest.mark.parametrize(("steps", "recorded"), [(21, 21), (250, 125), (1_000, 100), (100_000, 2_000)])
def test_about_a_hundred_steps_of_a_fit_are_recorded(steps: int, recorded: int) -> None:
    assert sum(events.is_step_recorded(step, steps) for step in range(1, steps + 1)) == recorded
