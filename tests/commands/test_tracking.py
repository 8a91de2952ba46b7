"""A run with every tracker, killed and resumed: what is read back is what the run has written itself."""

import csv
import json
import math
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml
from preloaded import PreloadedProcess
from wandb_file import LoggedRun, finished_runs

from tapir_exp.commands.tracking import tracked_classification, tracked_job, without_secrets
from tapir_exp.config import ClassifyConfig, Config, LoggerConfig, TrackerKind, WandbMode
from tapir_exp.core.events import EVENTS, EventStream, Kind, read_events
from tapir_exp.core.secrets import HIDDEN
from tapir_exp.report.trackers import tracking
from tapir_exp.report.trackers.base import Entry, JobInfo
from tapir_exp.report.trackers.curriculum import CURRICULUM_COLUMNS
from tapir_exp.report.trackers.mlflow import metric_name

SECRET = "sk-" + "tracked0" * 4
TINY = (
    *("debug=tiny", "logger=all", "logger.tags=[a-tag]", "logger.curriculum_rows=12"),
    *("lab.student.vocab_size=300", "lab.student.hidden_size=16", "lab.student.intermediate_size=24"),
    *("lab.student.num_layers=1", "lab.student.num_heads=2", "seeds.size=40", "evals.problems_per_level=1"),
)


@dataclass(frozen=True)
class TrackedRun:
    """A finished run with all trackers, and what each of them has."""

    outputs: Path

    @cached_property
    def path(self) -> Path:
        return (self.outputs / "latest").resolve()

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    @cached_property
    def events(self) -> Sequence[Mapping[str, Any]]:
        return read_events(self.path / EVENTS)

    @cached_property
    def wandb(self) -> list[LoggedRun]:
        return finished_runs(self.path)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        return [row for run in self.wandb for row in run.history]

    def events_of(self, kind: Kind) -> list[Mapping[str, Any]]:
        return [event for event in self.events if event["event"] == kind]


def start(outputs: Path) -> PreloadedProcess:
    environment = {**os.environ, "OPENAI_API_KEY": SECRET, "WANDB_API_KEY": SECRET}
    return PreloadedProcess([*TINY, f"outputs={outputs}"], stdout=outputs / "log", env=environment)


@pytest.fixture(scope="module")
def tracked_run(tmp_path_factory: pytest.TempPathFactory) -> TrackedRun:
    """Kill a run right after its first round, and resume it."""
    # On a busy machine a run may end before it is killed; then another one is started.
    attempts = (tmp_path_factory.mktemp("tracked") for _ in range(5))
    outputs = next(filter(is_killed_after_a_round, attempts), None)
    assert outputs is not None, "five runs in a row ended before they were killed"
    assert start(outputs).wait() == 0
    return TrackedRun(outputs)


def is_killed_after_a_round(outputs: Path) -> bool:
    """Start a run, and kill it after its first round; return False if it ended before."""
    process = start(outputs)
    try:
        events = outputs / "latest" / EVENTS
        while process.poll() is None and '"round_finished", "round": 1' not in (
            events.read_text() if events.is_file() else ""
        ):
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if isinstance(value, int | float) and name != "round"}


@pytest.mark.slow
def test_wandb_run_has_one_id_after_a_kill(tracked_run: TrackedRun) -> None:
    killed, resumed = tracked_run.wandb
    assert (killed.exit_code, resumed.exit_code) == (None, 0)
    assert killed.run.run_id == resumed.run.run_id == tracked_run.events_of(Kind.TRACKER_STARTED)[0]["id"]
    # W&B drops a row if the run has a later step already.
    assert max(row["_step"] for row in killed.history) < min(row["_step"] for row in resumed.history)


@pytest.mark.slow
def test_wandb_run_is_described(tracked_run: TrackedRun) -> None:
    run = tracked_run.wandb[-1]
    assert (run.run.project, run.run.job_type, run.run.run_group) == ("tapir", "train", "")
    assert run.run.display_name == tracked_run.path.name
    assert list(run.run.tags) == ["lab", "tapir", "seed 0", "a-tag"]
    assert run.config["seeds"]["size"] == 40


@pytest.mark.slow
def test_wandb_rounds_equal_the_metrics_of_the_run(tracked_run: TrackedRun) -> None:
    names = tracked_run.metrics[0].keys() - {"round"}
    for expected in tracked_run.metrics:
        rows = [row for row in tracked_run.history if row.get("round") == expected["round"] and names & row.keys()]
        assert rows
        for row in rows:  # the round before the kill may be logged twice, with the same values
            assert {name: row.get(name) for name in expected} == expected
    axes = tracked_run.wandb[-1].axes
    assert (axes["gap/mean"], axes["stage/seconds"], axes["spend/usd"]) == ("round", "stage/number", "spend/seconds")
    assert axes["fit/S_2/loss"] == axes["fit/S_2/tokens_per_second"] == "fit/S_2/step"


@pytest.mark.slow
def test_wandb_has_each_step_of_every_fit_in_order(tracked_run: TrackedRun) -> None:
    from tapir_exp.core.manifest import Manifest

    artifacts = Manifest.load(tracked_run.path).open(tracked_run.path)
    for number in range(3):
        text = (artifacts[f"student-{number}"].path / "training.jsonl").read_text()
        steps = {step["step"]: step for step in map(json.loads, text.splitlines())}
        logged = [row for row in tracked_run.history if f"fit/S_{number}/loss" in row]
        assert sorted({row[f"fit/S_{number}/step"] for row in logged}) == sorted(steps)
        for row in logged:
            step = steps[row[f"fit/S_{number}/step"]]
            assert row[f"fit/S_{number}/loss"] == step["loss"]
            assert row[f"fit/S_{number}/learning_rate"] == step["learning_rate"]


@pytest.mark.slow
def test_wandb_times_are_those_of_the_events(tracked_run: TrackedRun) -> None:
    times = [row["_timestamp"] for row in tracked_run.history]
    finished = tracked_run.events_of(Kind.STAGE_FINISHED)
    stages = {(row["stage/name"], row["_timestamp"]) for row in tracked_run.history if "stage/name" in row}
    assert stages == {(event["stage"], event["time"]) for event in finished}  # a reused stage is not logged again
    assert max(times) - min(times) >= finished[-1]["time"] - finished[0]["time"] > 1


@pytest.mark.slow
def test_wandb_has_curriculum_histograms_report_and_artifacts(tracked_run: TrackedRun) -> None:
    resumed = tracked_run.wandb[-1]
    (path,) = {
        path.read_bytes(): path
        for path in tracked_run.path.glob("wandb/offline-run-*/files/media/table/curriculum/round-2*.json")
    }.values()
    table = json.loads(path.read_text())
    assert table["columns"] == list(CURRICULUM_COLUMNS)
    assert len(table["data"]) == 12
    assert {row["gap/histogram._type"] for row in tracked_run.history if "gap/histogram._type" in row} == {"histogram"}
    assert resumed.history[-1]["report._type"] == "html-file"
    logged = [artifact.name for run in tracked_run.wandb for artifact in run.artifacts if artifact.type != "run_table"]
    assert {name.rpartition("-")[0] for name in logged} >= {"seeds", "expansions", "train_mix", "student"}
    student = next(a for a in resumed.artifacts if a.type == "student" and json.loads(a.metadata)["round"] == 2)
    made_from = {name.rpartition("-")[0] for name in json.loads(student.metadata)["made_from"]}
    assert made_from == {"student", "replayed_mix"}
    assert all(entry.ref.startswith("file://") for entry in student.manifest.contents)


@pytest.mark.slow
def test_tensorboard_rounds_equal_the_metrics_of_the_run(tracked_run: TrackedRun) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked_run.path / "tensorboard"), {"scalars": 0, "tensors": 0, "histograms": 0})
    events.Reload()
    for expected in tracked_run.metrics:
        for name, value in numbers(expected).items():
            at_round = [scalar for scalar in events.Scalars(name) if scalar.step == expected["round"]]
            assert len(at_round) in (1, 2)  # what is logged just before a kill may be logged again
            assert all(math.isclose(scalar.value, value, rel_tol=1e-6) for scalar in at_round)  # it keeps 32 bits
    steps = [scalar.step for scalar in events.Scalars("fit/S_2/loss")]
    assert steps == list(range(1, len(steps) + 1))
    times = [scalar.wall_time for scalar in events.Scalars("stage/seconds")]
    assert max(times) - min(times) > 1
    assert {histogram.step for histogram in events.Histograms("gap/histogram")} == {0, 1}
    assert "curriculum/round-1/text_summary" in events.Tags()["tensors"]


@pytest.mark.slow
def test_mlflow_rounds_equal_the_metrics_of_the_run(tracked_run: TrackedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    client = MlflowClient((tracked_run.outputs / "mlflow").as_uri())
    (experiment,) = [found for found in client.search_experiments() if found.name == "tapir"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", tracked_run.path.name)
    for expected in tracked_run.metrics:
        for name, value in numbers(expected).items():
            history = client.get_metric_history(run.info.run_id, metric_name(name))
            assert {entry.value for entry in history if entry.step == expected["round"]} == {value}
    times = [entry.timestamp / 1000 for entry in client.get_metric_history(run.info.run_id, "stage/seconds")]
    assert max(times) - min(times) > 1
    assert run.data.params["seeds.size"] == "40"
    files = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert files >= {"report.html", "curriculum", "task_mix", "gap", "artifacts"}


@pytest.mark.slow
def test_csv_files_equal_the_metrics_of_the_run(tracked_run: TrackedRun) -> None:
    with (tracked_run.path / "csv" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for expected in tracked_run.metrics:
        (row,) = [row for row in rows if row["round"] == str(expected["round"])]
        assert {name: float(row[name]) for name in numbers(expected)} == numbers(expected)
    # The file of the killed attempt is written again, with the times of that attempt.
    steps = [row for row in rows if row["fit/S_0/loss"]]
    assert [row["fit/S_0/step"] for row in steps][:3] == ["1", "2", "3"]
    assert float(steps[0]["time"]) < tracked_run.events_of(Kind.RUN_STARTED)[1]["time"]
    with (tracked_run.path / "csv" / "curriculum" / "round-1.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 12


@pytest.mark.slow
def test_no_tracker_has_a_secret(tracked_run: TrackedRun) -> None:
    files = [path for path in tracked_run.outputs.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_settings_are_without_secrets() -> None:
    settings = yaml.safe_load(f"judge: {{llm: {{api_base: 'http://a:{SECRET}@b', list: [{SECRET}, 3]}}}}")
    shown = without_secrets(settings, (SECRET,))
    assert SECRET not in str(shown)
    assert shown["judge"]["llm"]["list"] == [HIDDEN, 3]


class OpenedJobs:
    """Stands in for every tracker: keeps the jobs that it is opened for, and what becomes of them."""

    name, continues, buffer_s = "csv", True, 0.0

    def __init__(self) -> None:
        self.jobs: list[JobInfo] = []
        self.succeeded: list[bool] = []

    def open(self, kind: object, config: object, job: JobInfo, first_step: int) -> "OpenedJobs":
        self.jobs.append(job)
        return self

    def log(self, entry: Entry) -> None:
        """Take any entry."""

    def finish(self, *, succeeded: bool) -> None:
        self.succeeded.append(succeeded)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> OpenedJobs:
    jobs = OpenedJobs()
    monkeypatch.setattr(tracking, "_open", jobs.open)
    return jobs


@pytest.fixture(scope="module")
def csv_config(compose_config: Callable[..., Config]) -> Config:
    return compose_config("logger=csv", "logger.tags=[mine,tapir]", "seed=3")


def track(config: Config, run_dir: Path, key: str, error: BaseException | None = None, **options: Any) -> None:
    """Track a job with this key that ends at once, with an error if there is one."""
    run_dir.mkdir(exist_ok=True)
    stream = EventStream(run_dir / EVENTS)
    stream.record(Kind.RUN_STARTED, pid=1)
    with suppress(ZeroDivisionError), tracked_job(config, run_dir, options.pop("verb", "run"), key, stream, **options):
        if error is not None:
            raise error
    if error is None:
        stream.record(Kind.RUN_FINISHED, key=key)


def test_job_is_named_by_what_differs(tmp_path: Path, csv_config: Config, opened: OpenedJobs) -> None:
    track(csv_config, tmp_path / "one", "a" * 20)
    track(csv_config, tmp_path / "two", "b" * 20, sweep=("thresholds", "seed=3"), verb="evaluate")
    single, job = opened.jobs
    assert (single.name, single.group, single.job_type) == ("one", None, "train")
    assert (job.name, job.group, job.job_type) == ("seed=3", "thresholds", "evaluate")
    assert job.tags == ("lab", "tapir", "seed 3", "mine")
    assert job.settings["seed"] == 3


@pytest.mark.parametrize(
    ("error", "seed", "same_start", "same_id"),
    [
        (ZeroDivisionError(), 3, True, True),
        (None, 3, True, False),
        (ZeroDivisionError(), 4, False, False),
    ],
    ids=["unfinished", "finished", "other settings"],
)
def test_id_changes_with_the_code_only_if_the_job_is_finished(
    tmp_path: Path, csv_config: Config, opened: OpenedJobs, error: BaseException | None, seed: int,
    same_start: bool, same_id: bool,
) -> None:  # fmt: skip
    track(csv_config, tmp_path, "a" * 20, error)
    track(replace(csv_config, seed=seed), tmp_path, "b" * 20)
    first, second = (job.id for job in opened.jobs)
    assert ((first[:8] == second[:8]), first == second) == (same_start, same_id)
    assert opened.succeeded == [error is None, True]


def test_finished_job_keeps_its_id_if_it_is_repeated(tmp_path: Path, csv_config: Config, opened: OpenedJobs) -> None:
    track(csv_config, tmp_path, "a" * 20)
    track(replace(csv_config, logger=replace(csv_config.logger, tags=["other"])), tmp_path, "a" * 20)
    assert opened.jobs[0].id == opened.jobs[1].id


@pytest.mark.parametrize("error", [None, ZeroDivisionError("why")])
def test_classification_is_tracked_with_its_events(
    tmp_path: Path, opened: OpenedJobs, error: BaseException | None
) -> None:
    config = ClassifyConfig(output_dir=str(tmp_path / "out"), logger=LoggerConfig([TrackerKind.csv]))
    with suppress(ZeroDivisionError), tracked_classification(config):
        if error is not None:
            raise error
    (job,) = opened.jobs
    assert (job.job_type, job.name, job.tags) == ("classify", "out", ("label", "llm"))
    kinds = [event["event"] for event in read_events(tmp_path / "out" / EVENTS)]
    assert kinds == ["run_started", "tracker_started", "run_finished" if error is None else "run_failed"]


def test_classification_without_trackers_writes_nothing(tmp_path: Path) -> None:
    config = ClassifyConfig(output_dir=str(tmp_path / "out"), logger=LoggerConfig(mode=WandbMode.disabled))
    with tracked_classification(config):
        pass
    assert list(tmp_path.iterdir()) == []
