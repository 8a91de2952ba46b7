"""Trackers of a job: they read its events, and one that fails is dropped with a warning."""

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
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
from tapir_exp.report.trackers.entries import EntryReader, News
from tapir_exp.report.trackers.wandb_access import effective_mode


class Tracking:
    """Passes the events of a job to its trackers, each event once, also if the job is resumed."""

    def __init__(self, reader: EntryReader, trackers: Sequence[Tracker]) -> None:
        """Prepare the trackers.

        Args:
            reader: Turns events into entries.
            trackers: The trackers of the job.
        """
        self._reader, self._trackers = reader, list(trackers)
        self._logged: dict[str, set[Hashable]] = {tracker.name: set() for tracker in trackers}
        self._failed: list[Tracker] = []
        self._lock = Lock()

    def catch_up(self, events: Sequence[Event], job_id: str) -> None:
        """Pass on what trackers lack of earlier attempts of the job, with the times of that day.

        A tracker lacks an attempt in which it was not started, and the last entries of an attempt that was killed.
        Attempts of other settings are skipped: they have another id.

        Args:
            events: All events of the run directory, the start of this attempt included.
            job_id: Id of the job.
        """
        for attempt in _attempts(events):
            started = [event for event in attempt if event["event"] == Kind.TRACKER_STARTED and event["id"] == job_id]
            names = {event["tracker"] for event in started}
            end = attempt[-1]
            killed = end["event"] not in STATES or end["event"] == Kind.RUN_STARTED
            for event in attempt if names else ():
                lost = {t.name for t in self._trackers if killed and event["time"] > end["time"] - t.buffer_s}
                has = {t.name for t in self._trackers if t.continues and t.name in names - lost}
                for news in self._reader.take(event):
                    self._pass_on(news, has)

    def read(self, event: Event) -> None:
        """Pass an event to the trackers that do not have it yet."""
        with self._lock:  # threads of a job record events, too
            for news in self._reader.take(event):
                self._pass_on(news)

    def _pass_on(self, news: News, has: Collection[str] = ()) -> None:
        """Log news in the trackers that do not have it; `has` names those that got it in an earlier attempt."""
        waiting = [t for t in self._trackers if t.name not in has and news.identity not in self._logged[t.name]]
        for logged in self._logged.values():
            logged.add(news.identity)
        if not waiting:
            return
        try:
            entries = news.make()
        except Exception as error:  # an artifact that is gone or damaged is the business of the job
            print_warning(f"warning: trackers lack {news.identity}: {redact_secrets(str(error))}")
            return
        for tracker in waiting:
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
            print_warning(f"warning: {tracker.name} gets no more data of this job, which continues: {reason}")


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
        ConfigError: If a tracker lacks its package, key or server.
        TapirError: If one cannot be opened.
    """
    if problems := check_trackers(config):
        raise ConfigError(problems)
    kinds = chosen_trackers(config)
    if not kinds:
        yield
        return
    earlier = read_events(job.run_dir / EVENTS)
    trackers: list[Tracker] = []
    try:
        # One after the other, so that those that are open are finished if the next one cannot be opened.
        trackers.extend(_open(kind, config, job, len(earlier)) for kind in kinds)
        tracking = Tracking(EntryReader(job, config.curriculum_rows), trackers)
        tracking.catch_up(earlier, job.id)
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


def _attempts(events: Sequence[Event]) -> list[list[Event]]:
    """Split events at the starts of attempts; the attempt in progress, which is the last one, is not returned."""
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
        raise TapirError(
            f"The tracker {kind.value} cannot be opened ({reason}). Nothing has been paid. Choose others, as with "
            "logger.report_to=[csv] or logger=disabled, and repeat the command."
        ) from error
