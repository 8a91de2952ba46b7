"""The Python interface: what it composes, where it runs, and what it reads of a run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_run import SyntheticRun

import tapir_exp
from tapir_exp import api
from tapir_exp.commands import run_job
from tapir_exp.config import Config
from tapir_exp.core.errors import ConfigError, StoreError
from tapir_exp.core.events import EVENTS, Outcome, read_events
from tapir_exp.core.records import Label, TrainingExample, Verdict


@pytest.fixture(scope="module")
def run(compose_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    outputs = tmp_path_factory.mktemp("api") / "outputs"
    SyntheticRun(outputs, compose_config("logger=disabled")).write()
    return tapir_exp.open_run(outputs / SyntheticRun.name)


def test_compose_reports_every_mistake() -> None:
    with pytest.raises(ConfigError) as caught:
        tapir_exp.compose(["techer=lab", "curriculum.delta=99"])
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("wrong", ["seed=1", ["-m", "seed=1,2"]], ids=["text", "sweep"])
def test_compose_refuses_what_is_not_one_run(wrong: list[str]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        tapir_exp.compose(wrong)


def test_run_resumes_in_a_directory_of_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spend limits and the place of the outputs change no result, so they change no directory either."""
    config = tapir_exp.compose(["seed=3", "logger=disabled", f"outputs={tmp_path}"])
    directories: list[Path] = []

    def finish(config: Config, directory: Path, text: str) -> Outcome:
        directories.append(directory)
        return Outcome(figure="accuracy", value=0.5)

    monkeypatch.setattr(run_job, "run", finish)
    monkeypatch.setattr(api, "open_run", lambda directory: None)
    for changed in (config, replace(config, spend=replace(config.spend, max_usd=1.0)), replace(config, seed=4)):
        tapir_exp.run(changed)
    assert [directories[0] == other for other in directories] == [True, True, False]
    started, finished = read_events(directories[2] / EVENTS)
    assert (started["event"], finished["event"]) == ("run_started", "run_finished")
    assert (finished["figure"], finished["value"]) == ("accuracy", 0.5)
    assert finished["key"]


def test_run_records_its_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StoreError("no space")

    monkeypatch.setattr(run_job, "run", fail)
    with pytest.raises(StoreError, match="no space"):
        tapir_exp.run(tapir_exp.compose(["logger=disabled"]), tmp_path / "here")
    assert read_events(tmp_path / "here" / EVENTS)[-1]["reason"] == "no space"


def test_open_run_refuses_an_unfinished_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has not finished"):
        tapir_exp.open_run(tmp_path)


def test_rows_of_every_stage_are_tables(run: api.Run) -> None:
    for stage in run.stages:
        assert run.rows(stage).num_rows == len(run.records(stage)), stage
    verdicts = run.rows("verdicts-0").to_pandas()
    expected = [row.gap for row in run.records("verdicts-0") if isinstance(row, Verdict)]
    assert verdicts["gap"].dropna().tolist() == [gap for gap in expected if gap is not None]


def test_rows_of_an_unknown_stage_are_an_error_with_the_stages(run: api.Run) -> None:
    with pytest.raises(StoreError, match=r"'verdict-0'.*verdicts-0"):
        run.rows("verdict-0")


def test_empty_stage_has_its_columns(run: api.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_read", lambda directory, record: ())
    assert run.rows("task_labels").column_names == list(Label.model_fields)


@pytest.mark.parametrize("name", ["verdicts-0", "fresh_verdicts-2", "pass1_fresh_verdicts-2", "held_out_verdicts-1"])
def test_record_of_a_stage_ignores_its_prefix(name: str) -> None:
    assert api.record_of(name) is Verdict


def test_lineage_of_a_seed_follows_the_stages(run: api.Run) -> None:
    row = next(row for row in run.records("train_mix-1") if isinstance(row, TrainingExample) and not row.parents)
    lineage = run.lineage(row.id)
    stages = [step.stage for step in lineage.steps]
    assert stages[:5] == ["seeds", "task_labels", "teacher_responses", "student_responses-0", "verdicts-0"]
    assert stages.index("train_mix-1") == 5
    assert lineage.gaps["verdicts-0"] == row.difficulty
    assert str(lineage).count("\n") == len(stages)


def test_lineage_of_an_expansion_begins_with_its_parents(run: api.Run) -> None:
    row = run.records("expansions-1")[0]
    assert isinstance(row, TrainingExample)
    lineage = run.lineage(row.id)
    assert lineage.steps[0].record == row
    assert lineage.parents == row.parents != ()


@pytest.mark.parametrize("row_id", ["", "no such id"])
def test_lineage_needs_the_id_of_one_row(run: api.Run, row_id: str) -> None:
    with pytest.raises(StoreError, match="expected the id of one row"):
        run.lineage(row_id)


def test_student_path_prefers_the_judged_student(run: api.Run) -> None:
    last = run.rounds[-1]
    assert run.student_path() == run.artifacts[f"student-{last}"].path
    assert run.student_path(0) == run.artifacts["student-0"].path
    with pytest.raises(StoreError, match="no student of round 99"):
        run.student_path(99)


def test_metrics_and_config_are_those_of_the_run(run: api.Run) -> None:
    assert [row["round"] for row in run.metrics] == list(run.rounds)
    assert run.config["curriculum"]["delta"] == run.manifest.delta


def test_names_of_the_package_are_those_of_the_interface() -> None:
    assert tapir_exp.open_run is api.open_run
    with pytest.raises(AttributeError, match="no attribute 'open'"):
        tapir_exp.__getattr__("open")
