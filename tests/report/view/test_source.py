"""Runs are found and read as far as they have come: finished, in progress, incomplete or damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tapir_exp.core.errors import StoreError
from tapir_exp.core.events import EVENTS, EventStream, Kind, State
from tapir_exp.core.manifest import MANIFEST, Manifest
from tapir_exp.core.records import Verdict
from tapir_exp.report.view.assembly import assemble_rows
from tapir_exp.report.view.source import find_runs

MakeRun = Callable[..., Path]


def unfinish(run_dir: Path, stages: int) -> None:
    """Replace the manifest of a run by the events of its first stages."""
    manifest = Manifest.load(run_dir)
    (run_dir / MANIFEST).unlink()
    stream = EventStream(run_dir / EVENTS)
    stream.record(Kind.RUN_STARTED, pid=1)
    for entry in manifest.artifacts[:stages]:
        stream.record(Kind.STAGE_FINISHED, stage=entry.name, key=entry.key, seconds=1.0, figures={})


def test_find_runs_reads_a_finished_run(fake_run: MakeRun) -> None:
    (run,) = find_runs(fake_run())
    assert (run.name, run.state, run.delta, run.rounds) == ("lab", State.FINISHED, 2.0, 3)
    assert len(run.rows("verdicts-0", Verdict)) == 240
    assert run.problems == []


def test_run_in_progress_has_the_artifacts_of_its_events(fake_run: MakeRun) -> None:
    run_dir = fake_run()
    names = [entry.name for entry in Manifest.load(run_dir).artifacts]
    before = find_runs(run_dir)[0].fingerprint
    unfinish(run_dir, stages=6)
    (run,) = find_runs(run_dir)
    assert run.state is State.RUNNING
    assert list(run.artifacts) == names[:6]
    assert len(assemble_rows(run)) == 240
    assert run.fingerprint != before


def test_run_without_anything_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: x\n")
    (run,) = find_runs(tmp_path)
    assert (run.title, run.artifacts, assemble_rows(run)) == ("x", {}, {})


def test_missing_and_damaged_artifacts_are_problems(fake_run: MakeRun) -> None:
    run_dir = fake_run()
    run = find_runs(run_dir)[0]
    shutil.rmtree(run.artifacts["task_labels"])
    (run.artifacts["verdicts-1"] / "rows.jsonl").write_text('{"id": 1}\n')
    (run,) = find_runs(run_dir)
    rows = assemble_rows(run)
    assert len(rows) > 240
    problems = "\n".join(run.problems)
    assert "task_labels: " in problems
    assert "verdicts-1: " in problems


def test_events_name_nothing_outside_the_store(fake_run: MakeRun) -> None:
    run_dir = fake_run()
    unfinish(run_dir, stages=3)
    with (run_dir / EVENTS).open("a") as events:
        for stage, key in (("../../x", "y"), ("seeds", "../../../x"), (["seeds"], {"a": 1})):
            events.write(json.dumps({"time": 0, "event": "stage_finished", "stage": stage, "key": key}) + "\n")
    assert len(find_runs(run_dir)[0].artifacts) == 3


def test_find_runs_reads_every_job_of_a_sweep(tmp_path: Path) -> None:
    for name in ("arm-b", "arm-a", "more/arm-c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text("arm: x\n")
    assert [run.name for run in find_runs(tmp_path)] == ["arm-a", "arm-b", "more/arm-c"]


@pytest.mark.parametrize(("name", "text"), [("nowhere", "is not a directory"), ("", "has no run: expected")])
def test_find_runs_without_a_run_is_an_error(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(StoreError, match=text):
        find_runs(tmp_path / name)
