"""Tests of the settings that vary and of the groups of jobs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapir_exp.report.sweep.grouping import group_jobs, varying_settings
from tapir_exp.report.sweep.jobs import Job


def job(arm: str, seed: int, **settings: Any) -> Job:
    config: Mapping[str, Any] = {"arm": arm, "seed": seed, **settings}
    return Job(Path("job"), config, manifest=None, rounds=(), problem="no manifest.json")


def test_varying_settings_within_an_arm_and_seed() -> None:
    jobs = [job("tapir", 1, delta=delta, alpha=0.3) for delta in (1, 2, 1)]
    assert varying_settings(jobs) == ["delta"]


def test_varying_settings_ignores_other_arms_and_seeds() -> None:
    assert varying_settings([job("tapir", 1, delta=1), job("lion", 1, delta=2), job("tapir", 2, delta=3)]) == []


def test_varying_settings_includes_a_setting_that_one_job_lacks() -> None:
    assert varying_settings([job("tapir", 1), job("tapir", 1, delta=2)]) == ["delta"]


def test_varying_settings_ignores_names_and_jobs_without_config() -> None:
    empty = Job(Path("job"), {}, manifest=None, rounds=(), problem="no manifest.json")
    assert varying_settings([job("tapir", 1, name="a"), job("tapir", 1, name="b"), empty]) == []


def test_group_jobs_labels_groups_by_arm_and_settings() -> None:
    jobs = [job("tapir", 1, delta=1), job("tapir", 2, delta=1), job("tapir", 1, delta=2)]
    assert {label: len(members) for label, members in group_jobs(jobs, ["delta"], by_arm=True).items()} == {
        "tapir · 1": 2,
        "tapir · 2": 1,
    }
    assert set(group_jobs(jobs, ["delta"], by_arm=False)) == {"1", "2"}
