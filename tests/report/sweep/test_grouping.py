"""Tests of the settings that vary and of the groups of jobs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tapir_exp.report.sweep.grouping import find_baseline, find_columns, group_jobs, varying_settings
from tapir_exp.report.sweep.jobs import Job
from tapir_exp.report.sweep.plan_file import is_ignored


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


def typed(arm: str, seed: int, overrides: dict[str, str], **settings: Any) -> Job:
    config: Mapping[str, Any] = {"arm": arm, "seed": seed, **settings}
    return Job(Path("job"), config, None, (), "no manifest.json", overrides)


def test_choice_of_a_group_is_one_column_with_its_choices() -> None:
    jobs = [
        typed("tapir", seed, {"teacher": choice}, **{"teacher.llm.model": choice, "teacher.prompt": f"p-{choice}"})
        for choice in ("gpt_4o", "lab")
        for seed in (1, 2)
    ]
    assert find_columns(jobs) == ["teacher"]
    assert list(group_jobs(jobs, ["teacher"], by_arm=False)) == ["gpt_4o", "lab"]


def test_job_without_the_override_has_the_default_choice() -> None:
    jobs = [typed("tapir", 1, {}), typed("tapir", 1, {"teacher": "lab"}), typed("tapir", 1, {"teacher": "gpt_4o"})]
    defaults = {"teacher": "lab"}
    groups = group_jobs(jobs, find_columns(jobs, defaults), by_arm=False, defaults=defaults)
    assert {label: len(members) for label, members in groups.items()} == {"lab": 2, "gpt_4o": 1}


def test_group_and_one_of_its_leaves_are_two_columns() -> None:
    jobs = [
        typed("tapir", 1, {"teacher": choice, "teacher.n": str(n)}, **{"teacher.n": n, "teacher.model": choice})
        for choice in ("gpt_4o", "lab")
        for n in (1, 2)
    ]
    assert find_columns(jobs) == ["teacher", "teacher.n"]


@pytest.mark.parametrize("values", [(1e30, 1e-30), ("数学", "代码"), ("[1, 2]", "[1, 3]"), (True, None)])
def test_values_of_any_kind_tell_rows_apart(values: tuple[Any, Any]) -> None:
    jobs = [typed("tapir", 1, {"key": str(value)}, key=value) for value in values]
    assert list(group_jobs(jobs, find_columns(jobs), by_arm=False)) == [str(value) for value in values]


def test_changed_file_between_equal_overrides_is_a_column_too() -> None:
    jobs = [typed("tapir", 1, {"delta": "1"}, delta=1, rows=rows) for rows in (10, 20)]
    assert find_columns(jobs) == ["rows"]


def test_override_that_changes_no_result_is_no_column() -> None:
    for override in ("outputs=/tmp/x", "logger=disabled", "logger.mode=online", "spend.max_usd=3", "sweep.name=a"):
        assert is_ignored(override)
    assert not is_ignored("seeds.size=3")


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "tapir · 2.0"),
        ({"delta": "1"}, "tapir · 1.0"),
        ({"arm": "lion", "delta": "1"}, "lion · 1.0"),
        ({"delta": "7"}, None),
    ],
)
def test_baseline_has_the_defaults_or_the_chosen_settings(chosen: dict[str, str], expected: str | None) -> None:
    settings = {f"{arm} · {delta}": (arm, str(delta)) for arm in ("lion", "tapir") for delta in (1.0, 2.0)}
    assert find_baseline(settings, ["arm", "delta"], {"arm": "tapir", "delta": "2"}, chosen) == expected
