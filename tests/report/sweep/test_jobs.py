"""Tests of finding and reading the jobs of a sweep."""

from pathlib import Path

from tapir_exp.report.sweep.jobs import find_jobs


def test_find_jobs_ignores_directories_inside_a_job(ablation: Path) -> None:
    files = ablation / "arm-tapir_seed-1" / "wandb" / "offline-run" / "files"
    files.mkdir(parents=True)
    (files / "config.yaml").write_text("wandb: 1\n")
    assert len(find_jobs(ablation)) == 9


def test_find_jobs_with_damaged_manifest_has_a_problem(ablation: Path) -> None:
    (ablation / "arm-tapir_seed-3" / "manifest.json").write_text('{"name": 3')
    (damaged,) = [job for job in find_jobs(ablation) if not job.finished]
    assert damaged.path.name == "arm-tapir_seed-3"
    assert "cannot be read" in str(damaged.problem)


def test_find_jobs_reads_arm_and_seed_from_hydra(ablation: Path) -> None:
    """A job that stopped before it wrote any file has only the configuration that Hydra saved."""
    hydra = ablation / "arm-lion_seed-1" / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "config.yaml").write_text("arm: lion\nseed: 1\n")
    job = find_jobs(ablation)[3]
    assert (job.path.name, job.arm, job.seed, job.finished) == ("arm-lion_seed-1", "lion", 1, False)


def test_job_metric_of_unfinished_job_is_none(ablation: Path) -> None:
    job = find_jobs(ablation)[0]
    assert job.final_metric("benchmark/accuracy") == job.metric(3, "benchmark/accuracy") is not None
    assert job.metric(4, "benchmark/accuracy") is None
    (job.path / "manifest.json").unlink()
    assert find_jobs(ablation)[0].metric(0, "benchmark/accuracy") is None
