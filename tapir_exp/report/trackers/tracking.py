"""Trackers of a job: they read its events, and one that fails is dropped with a warning."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from threading import Lock

from tapir_exp.config import LoggerConfig, TrackerKind, WandbMode
from tapir_exp.core.console import print_warning
from tapir_exp.core.errors import ConfigError, TapirError
from tapir_exp.core.events import EVENTS, STATES, Event, EventStream, Kind, Pruned, read_events
from tapir_exp.core.secrets import redact_secrets
from tapir_exp.report.templates import REPORT
from tapir_exp.report.trackers.access import check_trackers, chosen_trackers
from tapir_exp.report.trackers.base import Entry, JobInfo, Page, Tracker
from tapir_exp.report.trackers.entries import EntryReader
from tapir_exp.report.trackers.wandb_access import effective_mode


class Tracking:
    """Passes the events of a job to its trackers, each event once, also if the job is resumed."""

    def __init__(self, reader: EntryReader, trackers: Sequence[Tracker], told: Mapping[str, set[Hashable]]) -> None:
        """Prepare the trackers.

        Args:
            reader: Turns events into entries.
            trackers: The trackers of the job.
            told: What each tracker has from earlier attempts, by its name.
        """
        self._reader, self._trackers = reader, list(trackers)
        self._told = {tracker.name: set(told.get(tracker.name, ())) for tracker in trackers}
        self._failed: list[Tracker] = []
        self._lock = Lock()

    def read(self, event: Event) -> None:
        """Pass an event to the trackers that do not have it yet."""
        with self._lock:  # threads of a job record events, too
            for news in self._reader.take(event):
                waiting = [tracker for tracker in self._trackers if news.identity not in self._told[tracker.name]]
                if not waiting:
                    continue
                entries = news.make()
                for tracker in waiting:
                    self._told[tracker.name].add(news.identity)
                    self._guard(tracker, partial(_log_all, tracker, entries))

    def finish(self, page: Page | None, *, succeeded: bool) -> None:
        """Log the report of a job, if it has one, and finish every tracker."""
        with self._lock:
            for tracker in list(self._trackers):
                if page is not None:
                    self._guard(tracker, partial(tracker.log, page))
                if tracker in self._trackers:
                    self._guard(tracker, partial(tracker.finish, succeeded=succeeded))
            for tracker in self._failed:
                with suppress(Exception):  # it has been reported
                    tracker.finish(succeeded=False)

    def _guard(self, tracker: Tracker, action: Callable[[], None]) -> None:
        """Drop a tracker that fails: it must not stop a job that may have cost days."""
        try:
            action()
        except Exception as error:
            self._trackers.remove(tracker)
            self._failed.append(tracker)
            reason = redact_secrets(f"{type(error).__name__}: {error}")
            print_warning(f"warning: {tracker.name} gets no more data of this job, which goes on: {reason}")


def _log_all(tracker: Tracker, entries: Sequence[Entry]) -> None:
    for entry in entries:
        tracker.log(entry)


@contextmanager
def tracked(config: LoggerConfig, job: JobInfo, stream: EventStream) -> Iterator[None]:
    """Track the job that runs in the block, by the events that it records.

    Leaving the block by an exception marks the runs in the trackers as failed. They are always finished, because jobs
    of a sweep share a process.

    Args:
        config: Which trackers, and their settings.
        job: The job.
        stream: Its events; those of earlier attempts are read from `events.jsonl` in its directory.

    Raises:
        ConfigError: If a tracker lacks its package, key or server, or cannot be opened.
        TapirError: If W&B refuses the run.
    """
    if problems := check_trackers(config):
        raise ConfigError(problems)
    kinds = chosen_trackers(config)
    if not kinds:
        yield
        return
    earlier = read_events(job.run_dir / EVENTS)
    trackers: list[Tracker] = []
    reader = EntryReader(job, config.curriculum_rows)
    try:
        # One after the other, so that those that are open are finished if the next one cannot be opened.
        trackers.extend(_open(kind, config, job, len(earlier)) for kind in kinds)
        tracking = Tracking(reader, trackers, told_before(earlier, job.id, reader, trackers))
    except BaseException:
        for tracker in trackers:
            with suppress(Exception):  # the first error is the one to report
                tracker.finish(succeeded=False)
        raise
    for tracker in trackers:
        stream.record(Kind.TRACKER_STARTED, tracker=tracker.name, id=job.id)
    stream.subscribe(tracking.read)
    succeeded = False
    try:
        yield
        succeeded = True
    except Pruned:
        succeeded = True  # a search has ended the job in order
        raise
    finally:
        stream.unsubscribe(tracking.read)
        report = job.run_dir / REPORT
        page = Page("report", report, report.stat().st_mtime) if succeeded and report.is_file() else None
        tracking.finish(page, succeeded=succeeded)


def told_before(
    events: Sequence[Event], job_id: str, reader: EntryReader, trackers: Sequence[Tracker]
) -> dict[str, set[Hashable]]:
    """Return what each tracker has from earlier attempts of a job, and let the reader take them up.

    Attempts of another configuration or code are skipped: they have another id. What a tracker may have lost when an
    attempt was killed counts as missing, so it is logged again.
    """
    told: dict[str, set[Hashable]] = {tracker.name: set() for tracker in trackers}
    for attempt in _attempts(events):
        tracked_by = {
            event["tracker"] for event in attempt if event["event"] == Kind.TRACKER_STARTED and event["id"] == job_id
        }
        if not tracked_by:
            continue
        killed = attempt[-1]["event"] not in STATES or attempt[-1]["event"] == Kind.RUN_STARTED
        for event in attempt:
            identities = [news.identity for news in reader.take(event)]
            for tracker in trackers:
                lost = killed and event["time"] > attempt[-1]["time"] - tracker.buffer_s
                if tracker.continues and tracker.name in tracked_by and not lost:
                    told[tracker.name].update(identities)
    return told


def _attempts(events: Sequence[Event]) -> list[list[Event]]:
    """Split events at the starts of attempts; the attempt in progress, which comes last, is left out."""
    attempts: list[list[Event]] = []
    for event in events:
        if event["event"] == Kind.RUN_STARTED or not attempts:
            attempts.append([])
        attempts[-1].append(event)
    return attempts[:-1]


def _open(kind: TrackerKind, config: LoggerConfig, job: JobInfo, first_step: int) -> Tracker:
    """Open a tracker. Its module is imported here, since its library takes seconds."""
    try:
        match kind:
            case TrackerKind.wandb:
                from tapir_exp.report.trackers.wandb_run import WandbTracker

                mode = effective_mode(config.mode)
                assert mode is not WandbMode.disabled
                return WandbTracker(config, mode, job, first_step)
            case TrackerKind.tensorboard:
                from tapir_exp.report.trackers.tensorboard import TensorBoardTracker

                return TensorBoardTracker(job)
            case TrackerKind.mlflow:
                from tapir_exp.report.trackers.mlflow import MlflowTracker

                return MlflowTracker(config, job)
            case TrackerKind.csv:
                from tapir_exp.report.trackers.csv_files import CsvTracker

                return CsvTracker(job)
    except (TapirError, OSError):
        raise
    except Exception as error:
        reason = redact_secrets(f"{type(error).__name__}: {error}")
        raise ConfigError(
            [f"logger.report_to = {kind.value}: expected a tracker that can be opened ({reason}); or leave it out"]
        ) from error
