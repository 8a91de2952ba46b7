"""A job is skipped only if its key is that of a finished, complete run."""

from dataclasses import replace
from pathlib import Path

import pytest

from tapir_exp.commands.finished import RESULTS, finished_outcome, job_key, unchanged_outcome
from tapir_exp.config import Config, SweepConfig
from tapir_exp.core.events import EVENTS, EventStream, Kind
from tapir_exp.core.manifest import MANIFEST, Entry, Manifest, entry_of
from tapir_exp.core.store import Store


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Write a finished run with the key "k"."""
    directory = tmp_path / "job"
    (tmp_path / "store" / "seeds" / "0").mkdir(parents=True)
    (tmp_path / "store" / "seeds" / "0" / "artifact.json").write_text("{}")
    directory.mkdir()
    entry = Entry(name="seeds", stage="seeds", round=0, key="0", files={})
    fields = {"name": "lab", "arm": "tapir", "seed": 0, "delta": 1.0, "alphas": (), "target": None}
    Manifest(**fields, store="../store", artifacts=(entry,)).write(directory)
    for name in RESULTS:
        (directory / name).write_text("")
    stream = EventStream(directory / EVENTS)
    stream.record(Kind.RUN_STARTED)
    stream.record(Kind.RUN_FINISHED, key="k", figure="accuracy", value=0.5)
    return directory


def test_finished_job_is_found_by_its_key(run_dir: Path) -> None:
    outcome = finished_outcome(run_dir, "k")
    assert outcome is not None
    assert (outcome.figure, outcome.value) == ("accuracy", 0.5)
    assert finished_outcome(run_dir, "other") is None


@pytest.mark.parametrize("lost", [EVENTS, MANIFEST, *RESULTS, "../store/seeds/0/artifact.json"])
def test_job_that_lacks_a_file_is_run_again(run_dir: Path, lost: str) -> None:
    (run_dir / lost).unlink()
    assert finished_outcome(run_dir, "k") is None


@pytest.mark.parametrize("kind", [Kind.RUN_STARTED, Kind.RUN_FAILED, Kind.RUN_STOPPED])
def test_job_whose_last_attempt_did_not_finish_is_run_again(run_dir: Path, kind: Kind) -> None:
    stream = EventStream(run_dir / EVENTS)
    stream.record(Kind.RUN_STARTED)
    stream.record(kind)
    assert finished_outcome(run_dir, "k") is None


@pytest.mark.parametrize("change", ["nothing", "config.yaml", "artifact", "key"])
def test_single_run_is_repeated_only_if_something_changed(tmp_path: Path, change: str) -> None:
    run_dir, store = tmp_path / "runs" / "lab", Store(tmp_path / "store")
    run_dir.mkdir(parents=True)
    made = store.produce("seeds", {}, lambda directory: {"rows": (directory / "rows.jsonl").write_text("{}\n")})
    fields = {"name": "lab", "arm": "tapir", "seed": 0, "delta": 1.0, "alphas": (), "target": None}
    Manifest(**fields, store="../../store", artifacts=(entry_of("seeds", 0, made),)).write(run_dir)
    for name in RESULTS:
        (run_dir / name).write_text("")
    (run_dir / "config.yaml").write_text("logger: disabled\n")
    stream = EventStream(run_dir / EVENTS)
    stream.record(Kind.RUN_STARTED)
    stream.record(Kind.RUN_FINISHED, key="k", figure="accuracy", value=0.5)
    if change == "artifact":
        (made.path / "rows.jsonl").write_text("{} \n")
    resolved = "logger: wandb\n" if change == "config.yaml" else "logger: disabled\n"
    outcome = unchanged_outcome(run_dir, "other" if change == "key" else "k", resolved)
    assert (outcome is not None) == (change == "nothing")


def config(**fields: object) -> Config:
    return replace(Config(name="lab"), **fields)  # type: ignore[arg-type]


def test_job_key_covers_what_changes_a_result() -> None:
    same = [config(), config(outputs="elsewhere"), config(sweep=SweepConfig(name="mine"))]
    assert {job_key(each, "run") for each in same} == {job_key(config(), "run")}
    assert len({job_key(config(), "run"), job_key(config(seed=3), "run"), job_key(config(), "evaluate")}) == 3


def test_job_key_covers_files_that_settings_name(tmp_path: Path) -> None:
    rows, directory = tmp_path / "rows.jsonl", tmp_path / "model"
    directory.mkdir()
    keys = []
    for text in ("1", "22"):
        rows.write_text(text)
        (directory / "weights").write_text(text)
        keys += [job_key(config(arm=str(path)), "run") for path in (rows, directory)]
    assert len(set(keys)) == 4
