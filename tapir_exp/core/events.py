"""The events of a run: what happened and when, appended to `events.jsonl` while it happens.

Console, trackers, live pages and the table of a sweep read this one stream. A run that is killed has written all its
events up to that moment. Stages, fits and ledgers record into the stream of the run in progress, without knowing it.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import Any

from tapir_exp.core.console import print_warning

EVENTS = "events.jsonl"
Event = Mapping[str, Any]
"""Time in seconds since 1970, kind, and the fields of the kind."""
Reader = Callable[[Event], None]


class Kind(StrEnum):
    """Kinds of events, with their fields."""

    RUN_STARTED = "run_started"
    """`pid`."""
    RUN_FINISHED = "run_finished"
    """`key` of the run, `figure` and `value` of its result, `usd` and `calls` of its spend."""
    RUN_FAILED = "run_failed"
    """`reason`."""
    RUN_STOPPED = "run_stopped"
    TRACKER_STARTED = "tracker_started"
    """`tracker`, and the `id` of the job in it, from the key of the job."""
    RUN_PRUNED = "run_pruned"
    """`figure` and `value` of the last round of a trial that a search has ended."""
    STAGE_STARTED = "stage_started"
    """`stage`."""
    STAGE_FINISHED = "stage_finished"
    """`stage`, `key` of the artifact, `seconds`, `figures`."""
    STAGE_REUSED = "stage_reused"
    """As of a stage that finished; the seconds are those of the run that made the artifact."""
    STAGE_FAILED = "stage_failed"
    """`stage`, `reason`."""
    TRAINING_STEP = "training_step"
    """`step` of `steps`, `tokens`, `loss`, `learning_rate`."""
    CALLS = "calls"
    """`stage`, and its `calls`, `cached` and `usd` so far."""
    CONCURRENCY = "concurrency"
    """`role`, the `limit` of calls in flight that `concurrency: auto` has found, and the `reason` of a decrease."""
    SPEND = "spend"
    """Of the run so far, in all attempts: `calls`, `cached`, `tokens`, `usd`."""
    FIGURES = "figures"
    """`figures` of a job without rounds, as of `tapir classify`; they may be nested."""
    STUDENT_FINISHED = "student_finished"
    """`round`; all stages that its metrics need are finished."""
    ROUND_FINISHED = "round_finished"
    """`round`, whether it is the `last` one, its `figure` and `value`, and its `metrics`."""


EVENTS_PER_FIT, MOST_STEPS_BETWEEN = 100, 50
"""About how many steps of a fit are recorded, and how many steps may pass between two of them."""


class State(StrEnum):
    """State of a run."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    PRUNED = "pruned"


STATES: Mapping[str, State] = {
    Kind.RUN_STARTED: State.RUNNING,
    Kind.RUN_FINISHED: State.FINISHED,
    Kind.RUN_FAILED: State.FAILED,
    Kind.RUN_STOPPED: State.STOPPED,
    Kind.RUN_PRUNED: State.PRUNED,
}


class Pruned(BaseException):
    """End a run in order, as a trial of a search that is worse than others; a reader of its events raises it.

    Args:
        round_number: The last round.
        figure: Name of its result.
        value: Its result.
    """

    def __init__(self, round_number: int, figure: str, value: float | None) -> None:
        super().__init__(f"pruned after round {round_number}")
        self.figure, self.value = figure, value


class EventStream:
    """Events of one run, written to a file and passed to readers in this process.

    Args:
        path: The file; None if the events are only passed on.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._readers: list[Reader] = []
        self._lock = Lock()
        self._last_sparse: dict[Kind, float] = {}

    def subscribe(self, reader: Reader) -> None:
        """Pass all further events to a reader."""
        self._readers.append(reader)

    def unsubscribe(self, reader: Reader) -> None:
        """Pass no more events to a reader; one that has failed is gone already."""
        if reader in self._readers:
            self._readers.remove(reader)

    def record(self, kind: Kind, **fields: Any) -> None:
        """Append an event. Raises OSError if it cannot be written, and Pruned if a reader ends the run."""
        event = {"time": round(time.time(), 3), "event": str(kind), **fields}
        with self._lock:
            if self._path is not None:
                _append(self._path, json.dumps(event, default=str))
        ended: Pruned | None = None
        for reader in tuple(self._readers):
            try:
                self._pass_on(reader, event)
            except Pruned as pruned:  # the other readers get the event, too
                ended = pruned
        if ended is not None:
            raise ended

    def record_sparsely(self, kind: Kind, seconds: float, fields: Callable[[], Mapping[str, Any]]) -> None:
        """Append an event, unless one of its kind was appended in this way during the last seconds."""
        now = time.monotonic()
        if now - self._last_sparse.get(kind, float("-inf")) >= seconds:
            self._last_sparse[kind] = now
            self.record(kind, **fields())

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this the stream of the run in progress, for `record` and `record_sparsely` of this module."""
        _active.append(self)
        try:
            yield
        finally:
            _active.remove(self)

    def pass_on_steps(self, offset: int) -> int:
        """Pass on training steps that another process has appended to the file, as the ranks of a fit do.

        Args:
            offset: Byte at which new lines begin.

        Returns:
            The byte behind the last whole line.
        """
        if self._path is None or not self._path.is_file():
            return offset
        with self._path.open("rb") as file:
            file.seek(offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        for event in _parse(whole):
            if event["event"] == Kind.TRAINING_STEP:
                for reader in tuple(self._readers):
                    self._pass_on(reader, event)
        return offset + len(whole) + len(newline)

    def _pass_on(self, reader: Reader, event: Event) -> None:
        try:
            reader(event)
        except Exception as error:
            # A page or a tracker that fails must not stop a run that may have cost days.
            self._readers.remove(reader)
            name = type(getattr(reader, "__self__", reader)).__name__
            print_warning(f"warning: {name} gets no more events of this run: {type(error).__name__}: {error}")


_active: list[EventStream] = []
"""Streams of the runs in progress, the innermost last. Threads of a run record into it, too."""


@contextmanager
def reading_events(reader: Reader) -> Iterator[None]:
    """Pass the events of the run in progress to a reader; without such a run, of a stream that no file has."""
    if not _active:
        with EventStream().active(), reading_events(reader):
            yield
        return
    stream = _active[-1]
    stream.subscribe(reader)
    try:
        yield
    finally:
        stream.unsubscribe(reader)


def current_path() -> Path | None:
    """Return the file of the run in progress, so that another process of the run can append to it."""
    return _active[-1]._path if _active else None


def record(kind: Kind, **fields: Any) -> None:
    """Append an event to the stream of the run in progress, if there is one."""
    if _active:
        _active[-1].record(kind, **fields)


def record_sparsely(kind: Kind, seconds: float, fields: Callable[[], Mapping[str, Any]]) -> None:
    """Append an event to the stream of the run in progress; see `EventStream.record_sparsely`."""
    if _active:
        _active[-1].record_sparsely(kind, seconds, fields)


def pass_on_steps(offset: int) -> int:
    """Pass on the steps of other processes in the run in progress; see `EventStream.pass_on_steps`."""
    return _active[-1].pass_on_steps(offset) if _active else offset


def is_step_recorded(step: int, steps: int) -> bool:
    """Return whether a step of a fit with this many steps is recorded as an event."""
    return step % min(MOST_STEPS_BETWEEN, max(1, steps // EVENTS_PER_FIT)) == 0


def read_events(path: Path) -> list[Event]:
    """Read a stream; none if there is no file. Lines that a kill or a full disk cut are skipped."""
    return _parse(path.read_bytes()) if path.is_file() else []


def _parse(content: bytes) -> list[Event]:
    events: list[Event] = []
    for line in content.split(b"\n"):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            events.append(event)
    return events


@dataclass(frozen=True)
class Outcome:
    """State of a run, from its events.

    Attributes:
        state: Of the last attempt.
        key: Key of the finished run; empty unless it is finished.
        figure: Name of its main result; empty if it has none.
        value: Main result.
        seconds: Wall time of all attempts; None if there was none.
        calls: Paid calls of all attempts.
        usd: Spend of all attempts; None if the price of a call is unknown.
        reason: Why it failed; empty unless it failed.
    """

    state: State = State.WAITING
    key: str = ""
    figure: str = ""
    value: float | None = None
    seconds: float | None = None
    calls: int = 0
    usd: float | None = 0.0
    reason: str = ""


def outcome_of(events: Sequence[Event]) -> Outcome:
    """Return the state of a run, and the sums over its attempts."""
    attempts: list[list[Event]] = []
    for event in events:
        if event["event"] == Kind.RUN_STARTED or not attempts:
            attempts.append([])
        attempts[-1].append(event)
    if not attempts:
        return Outcome()
    end = next((event for event in reversed(attempts[-1]) if event["event"] in STATES), attempts[-1][-1])
    spend = next((event for event in reversed(events) if "usd" in event and event["event"] != Kind.CALLS), {})
    return Outcome(
        state=STATES.get(end["event"], State.RUNNING),
        key=end.get("key", ""),
        figure=end.get("figure") or "",
        value=end.get("value"),
        seconds=sum(attempt[-1]["time"] - attempt[0]["time"] for attempt in attempts),
        calls=spend.get("calls", 0),
        usd=spend.get("usd", 0.0),
        reason=end.get("reason", ""),
    )


def _append(path: Path, line: str) -> None:
    """Append a line in one write, so that lines of several processes do not mix."""
    with path.open("a+b", buffering=0) as file:
        # A kill or a full disk may have left half a line.
        if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            line = f"\n{line}"
        file.write(f"{line}\n".encode(errors="replace"))
