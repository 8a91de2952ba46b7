"""View of a run: parts that an arm does not have may be missing, everything else is required."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tapir_exp.core.errors import StoreError
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.task_types import BOOSTED, TaskType
from tapir_exp.report.metrics import run_metrics
from tapir_exp.report.run_samples import lineages, samples
from tapir_exp.report.run_view import RunView, spend_by_role

MakeRun = Callable[..., Path]


def remove_entry(run_dir: Path, name: str) -> None:
    """Remove an artifact from the manifest."""
    path = run_dir / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["artifacts"] = [entry for entry in manifest["artifacts"] if entry["name"] != name]
    path.write_text(json.dumps(manifest))


def test_load_reads_a_finished_run(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    assert [r.number for r in run.rounds] == [0, 1, 2, 3]
    assert [r.alpha for r in run.rounds] == [None, 0.3, 0.5, 0.7]
    assert len(run.seeds) == len(run.rounds[0].verdicts) == 240
    assert run.rounds[0].unscored == 1
    assert len(run.rounds[0].gaps) == 239
    assert not run.rounds[3].verdicts
    assert run.config["curriculum"]["delta"] == 2.0
    assert run.metrics[-1]["round"] == 3


@pytest.mark.slow
def test_load_reads_a_run_of_the_pipeline(lab_run: Path) -> None:
    run = RunView.load(lab_run)
    assert [r.number for r in run.rounds] == [0, 1, 2]
    assert len(run.seeds) == len(run.labels) == len(run.teacher_responses) == 40
    assert all(r.steps and r.benchmark for r in run.rounds)
    assert all(r.plan and r.expansions and r.mix for r in run.rounds[1:])
    assert [bool(r.verdicts) for r in run.rounds] == [True, True, False]
    assert list(run.metrics) == run_metrics(run.manifest, run.artifacts)


@pytest.mark.slow
def test_fake_run_has_artifacts_and_metrics_of_a_real_run(lab_run: Path, fake_run: MakeRun) -> None:
    """Compare the names of everything that the pipeline writes, so that the fake cannot drift from it."""
    real = RunView.load(lab_run)
    fake = RunView.load(fake_run(rounds=2, held_out_instructions=4))
    assert set(fake.artifacts) == set(real.artifacts)
    assert {a.stage for a in fake.artifacts.values()} == {a.stage for a in real.artifacts.values()}
    for fake_row, real_row in zip(fake.metrics, real.metrics, strict=True):
        by_task = ("mix/task/", "benchmark/task/")  # which task types occur is a matter of the seeds
        names = [{name for name in row if not name.startswith(by_task)} for row in (fake_row, real_row)]
        assert names[0] == names[1]
    assert set(fake.config) == set(real.config)


def test_hard_counts_gaps_above_the_threshold_only(fake_run: MakeRun) -> None:
    r = RunView.load(fake_run()).rounds[0]
    assert r.hard(2.0) == sum(gap > 2.0 for gap in r.gaps)
    assert r.hard(max(r.gaps)) == 0


def test_load_without_rounds_needs_no_labels(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run(arm="vanilla_sft", rounds=0))
    assert len(run.rounds) == 1
    assert not run.labels
    assert samples(run) == []
    assert lineages(run) == []


def test_load_without_a_benchmark_has_no_results(fake_run: MakeRun) -> None:
    assert not RunView.load(fake_run(benchmark=False)).rounds[0].benchmark


@pytest.mark.parametrize(
    "name",
    [
        "seeds",
        "task_labels",
        "teacher_responses",
        "student-3",
        "student_responses-2",
        "verdicts-0",
        "plan-2",
        "train_mix-1",
        "benchmark-2",
    ],
)
def test_load_with_an_artifact_not_in_the_manifest_raises(fake_run: MakeRun, name: str) -> None:
    run_dir = fake_run()
    remove_entry(run_dir, name)
    with pytest.raises(StoreError, match=name):
        RunView.load(run_dir)


def test_load_with_an_artifact_not_in_the_store_raises(fake_run: MakeRun) -> None:
    run_dir = fake_run()
    shutil.rmtree(run_dir.parent.parent / "store" / "train_mix")
    with pytest.raises(StoreError, match="train_mix/"):
        RunView.load(run_dir)


@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl", "config.yaml"])
def test_load_of_an_unfinished_run_names_the_missing_file(fake_run: MakeRun, name: str) -> None:
    run_dir = fake_run()
    (run_dir / name).unlink()
    with pytest.raises(StoreError, match=f"{name}: the run has not finished"):
        RunView.load(run_dir)


@pytest.mark.parametrize("written", [None, 1, 99])
def test_load_of_another_format_explains_itself(fake_run: MakeRun, written: int | None) -> None:
    run_dir = fake_run()
    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert manifest.pop("format") == Manifest.load(run_dir).format
    (run_dir / "manifest.json").write_text(json.dumps(manifest if written is None else {"format": written, **manifest}))
    with pytest.raises(StoreError, match=f"has format {written or 1}, but this version reads format"):
        RunView.load(run_dir)


def test_tasks_come_from_labels_mixes_target_and_benchmark(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    unlabelled = replace(run, labels={}, rounds=run.rounds[:1])
    assert TaskType.MATH in unlabelled.tasks
    assert TaskType.LAW not in run.tasks
    assert run.tasks[:4] == list(BOOSTED)


def test_spend_by_role_sums_artifacts_and_keeps_unknown_prices(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    spends = {row.role: row for row in spend_by_role(run.artifacts.values())}
    assert spends["classifier"].usd is None
    judged = sum(len(r.verdicts) for r in run.rounds)
    assert spends["judge"].calls == 2 * judged
    assert spends["judge"].usd == pytest.approx(3 * 0.52)
    assert spends["judge"].prompt_tokens == 180 * 2 * judged
