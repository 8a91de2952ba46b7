"""Trackers of a job: each event once, also after a resume; one that fails changes nothing else."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tapir_exp.config import LoggerConfig, TrackerKind, WandbMode
from tapir_exp.core.errors import ConfigError, TapirError
from tapir_exp.core.events import EVENTS, EventStream, Kind, Pruned, read_events
from tapir_exp.report.trackers import tracking
from tapir_exp.report.trackers.base import ArtifactReference, Entry, JobInfo, Page, Point
from tapir_exp.report.trackers.tracking import tracked
from tapir_exp.report.trackers.wandb_run import WandbTracker

SECRET = "sk-" + "tracker0" * 4


class FakeTracker:
    """Keeps the stages that it gets, and fails in the method that is named."""

    buffer_s = 0.0

    def __init__(self, name: str, fails: str = "", continues: bool = True) -> None:
        self.name, self._fails, self.continues = name, fails, continues
        self.stages: list[str] = []
        self.times: list[float] = []
        self.pages: list[str] = []
        self.succeeded: bool | None = None

    def log(self, entry: Entry) -> None:
        if self._fails == "log":
            raise ConnectionError(f"the server has gone, {SECRET}")
        if isinstance(entry, Point) and entry.axis == "stage/number":
            self.stages.append(str(entry.values["stage/name"]))
            self.times.append(entry.time)
        if isinstance(entry, Page):
            self.pages.append(entry.name)

    def finish(self, *, succeeded: bool) -> None:
        self.succeeded = succeeded
        if self._fails:
            raise ConnectionError("still gone")


def job(run_dir: Path, job_id: str = "id") -> JobInfo:
    return JobInfo(job_id, "n" * 300, "g" * 300, "train", ("t" * 99,), {"a": 1}, run_dir, run_dir, run_dir)


@contextmanager
def attempt(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, *trackers: FakeTracker, job_id: str = "id"
) -> Iterator[EventStream]:
    """Track an attempt with trackers that are opened in this order."""
    by_kind = {TrackerKind(tracker.name): tracker for tracker in trackers}
    monkeypatch.setattr(tracking, "_open", lambda kind, *_: by_kind[kind])
    stream = EventStream(run_dir / EVENTS)
    stream.record(Kind.RUN_STARTED, pid=1)
    with stream.active(), tracked(LoggerConfig(report_to=list(by_kind)), job(run_dir, job_id), stream):
        yield stream


def finish_stage(stream: EventStream, name: str, key: str = "k") -> None:
    time.sleep(0.002)  # times have three digits
    stream.record(Kind.STAGE_FINISHED, stage=name, key=key, seconds=1, figures={})


def test_failing_tracker_is_dropped_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(tracking, "print_warning", warnings.append)
    bad, good = FakeTracker("wandb", fails="log"), FakeTracker("csv")
    (tmp_path / "report.html").write_text("page")
    with attempt(tmp_path, monkeypatch, bad, good) as stream:
        finish_stage(stream, "plan-1")
        finish_stage(stream, "plan-2")
    assert good.stages == ["plan-1", "plan-2"]
    assert (good.succeeded, good.pages, bad.succeeded) == (True, ["report"], False)
    (warning,) = warnings
    assert "wandb gets no more data of this job, which continues: ConnectionError: the server has gone" in warning
    assert SECRET not in warning


def test_tracker_that_fails_at_its_end_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = FakeTracker("wandb", fails="finish"), FakeTracker("csv")
    with attempt(tmp_path, monkeypatch, bad, good):
        pass
    assert (good.succeeded, good.pages) == (True, [])


@pytest.mark.parametrize(("error", "succeeded"), [(KeyError(), False), (Pruned(1, "loss", 0.5), True)])
def test_job_that_raises_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, succeeded: bool
) -> None:
    tracker = FakeTracker("csv")
    with pytest.raises(type(error)), attempt(tmp_path, monkeypatch, tracker):
        raise error
    assert tracker.succeeded is succeeded


def test_tracker_that_cannot_be_opened_finishes_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = FakeTracker("wandb")

    def open_one(kind: TrackerKind, *_: object) -> FakeTracker:
        if kind is TrackerKind.wandb:
            return first
        raise ConfigError(["no server"])

    monkeypatch.setattr(tracking, "_open", open_one)
    config = LoggerConfig(report_to=[TrackerKind.csv, TrackerKind.wandb])
    with pytest.raises(ConfigError, match="no server"), tracked(config, job(tmp_path), EventStream()):
        raise AssertionError("the job must not start")
    assert first.succeeded is False


def test_error_of_a_library_at_the_start_names_the_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    message = r"The tracker wandb cannot be opened \(ModuleNotFoundError"
    with pytest.raises(TapirError, match=message), tracked(LoggerConfig(), job(tmp_path), EventStream()):
        raise AssertionError("the job must not start")


def test_resumed_job_gives_each_tracker_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = FakeTracker("wandb")
    with attempt(tmp_path, monkeypatch, first) as stream:
        finish_stage(stream, "plan-1")
        stream.record(Kind.RUN_STOPPED)
    keeping, new, rewriting = FakeTracker("wandb"), FakeTracker("mlflow"), FakeTracker("csv", continues=False)
    with attempt(tmp_path, monkeypatch, keeping, new, rewriting) as stream:
        finish_stage(stream, "plan-1")
        finish_stage(stream, "plan-2")
    assert keeping.stages == ["plan-2"]
    assert new.stages == rewriting.stages == ["plan-1", "plan-2"]
    started = [event for event in read_events(tmp_path / EVENTS) if event["event"] == Kind.TRACKER_STARTED]
    assert [(event["tracker"], event["id"]) for event in started] == [
        (name, "id") for name in ("wandb", "wandb", "mlflow", "csv")
    ]


@pytest.mark.parametrize(("killed", "other_id", "expected"), [(True, False, 2), (False, False, 1), (False, True, 2)])
def test_what_a_kill_or_another_id_may_lack_is_logged_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool, other_id: bool, expected: int
) -> None:
    buffered = FakeTracker("wandb")
    buffered.buffer_s = 30.0
    with attempt(tmp_path, monkeypatch, FakeTracker("wandb")) as stream:
        finish_stage(stream, "plan-1")
        if not killed:
            stream.record(Kind.RUN_FAILED, reason="")
    with attempt(tmp_path, monkeypatch, buffered, job_id="other" if other_id else "id") as stream:
        finish_stage(stream, "plan-1")
        finish_stage(stream, "plan-2")
    assert len(buffered.stages) == expected
    # What was lost is logged with its own time, and not again when the stage is reused.
    of_stages = [event["time"] for event in read_events(tmp_path / EVENTS) if event["event"] == Kind.STAGE_FINISHED]
    assert buffered.times == [of_stages[index] for index in ([0, 2] if killed else [1, 2] if other_id else [2])]


def test_disabled_tracker_starts_nothing(tmp_path: Path) -> None:
    with tracked(LoggerConfig(mode=WandbMode.disabled), job(tmp_path), EventStream(tmp_path / EVENTS)):
        pass
    assert list(tmp_path.iterdir()) == []


class FakeWandb(ModuleType):
    """Keeps what `init` and the run get, and looks for the home directory as wandb does."""

    Error = RuntimeError
    starting_step = 40

    def __init__(self) -> None:
        super().__init__("wandb")
        self.settings: dict[str, Any] = {}
        self.calls: list[tuple[str, Any]] = []

    def init(self, **settings: Any) -> "FakeWandb":
        self.settings = {**settings, "home": Path("~").expanduser()}
        return self

    def Settings(self, **settings: Any) -> None:  # noqa: N802  # as in wandb
        """Take any settings."""

    def Artifact(self, name: str, **fields: Any) -> Any:  # noqa: N802  # as in wandb
        return self

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **fields: self.calls.append((name, (args, fields)))


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.mark.parametrize("home", [None, ""])
def test_wandb_works_without_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb: FakeWandb, home: str | None
) -> None:
    monkeypatch.setattr("os.getuid", lambda: 54321)  # no entry in the table of users
    monkeypatch.setenv("HOME", "") if home == "" else monkeypatch.delenv("HOME")
    WandbTracker(LoggerConfig(), WandbMode.offline, job(tmp_path), 0)
    assert wandb.settings["home"] == tmp_path
    assert [len(wandb.settings[name]) for name in ("group", "name")] == [128, 128]
    assert (wandb.settings["id"], wandb.settings["resume"], len(wandb.settings["tags"][0])) == ("id", "allow", 64)


@pytest.mark.parametrize(("first_step", "step"), [(7, 40), (99, 99)])
def test_wandb_steps_are_above_those_of_earlier_attempts(
    tmp_path: Path, wandb: FakeWandb, first_step: int, step: int
) -> None:
    tracker = WandbTracker(LoggerConfig(), WandbMode.offline, job(tmp_path), first_step)
    for position in (5, 6):
        tracker.log(Point("fit/S_0/step", position, {"fit/S_0/loss": 0.5}, 123.5))
    tracker.log(ArtifactReference("seeds-k", "seeds", tmp_path, {}, 0.0))
    metrics = [fields for name, (_, fields) in wandb.calls if name == "define_metric"]
    assert metrics == [{"hidden": True}, {"step_metric": "fit/S_0/step", "step_sync": False}]
    logged = [(args[0], fields["step"]) for name, (args, fields) in wandb.calls if name == "log"]
    assert logged[0] == ({"fit/S_0/step": 5, "fit/S_0/loss": 0.5, "_timestamp": 123.5}, step)
    assert logged[1][1] == step + 1
    ((uri,), options) = next(call for name, call in wandb.calls if name == "add_reference")
    assert (uri, options) == (tmp_path.as_uri(), {"checksum": False})
