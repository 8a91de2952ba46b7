"""Tests of the list of jobs without a result."""

from collections.abc import Callable
from pathlib import Path

from tapir_exp.report.sweep.comparison import load_sweep
from tapir_exp.report.sweep.page import write_sweep_report


def test_unfinished_jobs_are_listed_with_reasons(ablation: Path) -> None:
    (ablation / "arm-tapir_seed-3" / "manifest.json").unlink()
    path = ablation / "arm-fixed_alpha_seed-2" / "metrics.jsonl"
    path.write_text("\n".join([*path.read_text().splitlines()[:2], '{"round": 2, "ws']))
    reasons = {missing.label: missing.reason for missing in load_sweep(ablation).missing}
    assert set(reasons) == {"tapir, seed 3", "fixed_alpha, seed 2"}
    assert "metrics end with round 3" in reasons["tapir, seed 3"]
    assert reasons["fixed_alpha, seed 2"] == "stopped after round 1 of 3"
    page = write_sweep_report(ablation).read_text()
    assert all(label in page and label in (ablation / "comparison.md").read_text() for label in reasons)


def test_unstarted_seed_of_an_arm_is_listed(fake_run: Callable[..., Path], ablation: Path) -> None:
    fake_run(name="sweep/arm-tapir_seed-4", arm="tapir", seed=4, size=40)
    missing = load_sweep(ablation).missing
    assert {job.label for job in missing} == {"natural_mix, seed 4", "fixed_alpha, seed 4"}
    assert {job.directory for job in missing} == {None}
    write_sweep_report(ablation)
    assert "- natural_mix, seed 4 (no directory): not started" in (ablation / "comparison.md").read_text()


def test_job_with_only_a_hydra_config_is_listed(ablation: Path) -> None:
    hydra = ablation / "arm-lion_seed-1" / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "config.yaml").write_text("arm: lion\nseed: 1\n")
    labels = {missing.directory: missing.label for missing in load_sweep(ablation).missing}
    assert labels["arm-lion_seed-1"] == "lion, seed 1"
