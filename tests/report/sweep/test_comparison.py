"""Tests of the comparison: pairing by seed, order of the rows, settings that vary, and shared artifacts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps import final_accuracies
from tapir_exp.core.errors import StoreError
from tapir_exp.evals.statistics import paired_difference
from tapir_exp.report.sweep.comparison import load_sweep
from tapir_exp.report.sweep.page import write_sweep_report

MakeRun = Callable[..., Path]


def test_load_sweep_sorts_baseline_first_then_by_accuracy(ablation: Path) -> None:
    rows = load_sweep(ablation).rows
    assert rows[0].label == "tapir"
    others = [row.accuracy.mean for row in rows[1:] if row.accuracy]
    assert others == sorted(others, reverse=True)


def test_difference_is_paired_by_seed(ablation: Path) -> None:
    (ablation / "arm-tapir_seed-1" / "manifest.json").unlink()
    row = next(row for row in load_sweep(ablation).rows if row.label == "natural_mix")
    expected = paired_difference(final_accuracies(ablation, "natural_mix")[1:], final_accuracies(ablation, "tapir")[1:])
    assert row.difference is not None
    assert row.difference.n == 2
    assert row.difference.mean == pytest.approx(expected.mean)


def test_load_sweep_excludes_unfinished_jobs_from_rows(ablation: Path) -> None:
    (ablation / "arm-tapir_seed-3" / "manifest.json").unlink()
    row = load_sweep(ablation).rows[0]
    assert (row.label, row.finished, row.jobs) == ("tapir", 2, 3)
    assert list(row.accuracy_by_seed) == [1, 2]


@pytest.mark.slow
def test_load_sweep_compares_by_the_setting_that_varies(fake_run: MakeRun) -> None:
    for delta in (10.0, 2.0, 0.0):
        for seed in (1, 2):
            settings = {"curriculum.delta": delta, "student.seed": seed}
            run = fake_run(name=f"sweep/delta-{delta}_seed-{seed}", seed=seed, size=40, settings=settings)
    sweep = load_sweep(run.parent)
    assert sweep.subject == "curriculum.delta"
    assert [row.label for row in sweep.rows] == ["0.0", "2.0", "10.0"]
    assert [len(row.accuracy_by_seed) for row in sweep.rows] == [2, 2, 2]
    assert not sweep.has_differences
    assert not sweep.missing


@pytest.mark.slow
def test_artifact_counts_and_shared_artifacts(fake_run: MakeRun) -> None:
    for delta in (0.0, 1.0, 2.0, 3.0, 4.0):
        run = fake_run(name=f"sweep/{delta}", size=40, settings={"curriculum.delta": delta})
    sweep = load_sweep(run.parent)
    counts = {count.name: (count.distinct, count.jobs) for count in sweep.artifact_counts}
    assert counts["student-0"] == (1, 5)
    assert counts["train_mix-1"] == (5, 5)
    assert "train_mix-1" not in {count.name for count in sweep.shared_artifacts}
    write_sweep_report(run.parent)
    assert "student-0, 1 distinct over 5 jobs" in (run.parent / "comparison.md").read_text()


def test_load_sweep_without_jobs_raises(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="contains no job"):
        load_sweep(tmp_path)
