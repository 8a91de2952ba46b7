"""The target mix is met to the row for any shares."""

from collections import Counter

import pytest
import yaml
from assets import ROOT
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.core.errors import SeedError
from tapir_exp.core.task_types import BOOSTED, TaskType
from tapir_exp.distillation.curriculum.task_mix import apportion, apportion_parts, natural_shares, target_shares

PRESETS = ROOT / "conf/task_mix"
TAPIR: dict[str, float] = yaml.safe_load((PRESETS / "tapir.yaml").read_text())["target_distribution"]
MATH, REASONING, WRITING, LAW = TaskType.MATH, TaskType.REASONING, TaskType.WRITING, TaskType.LAW

mixes = st.dictionaries(st.sampled_from(TaskType), st.floats(1e-6, 1e3), min_size=1)


@given(total=st.integers(0, 100_000), shares=mixes)
def test_apportion_sums_to_the_total_within_one_row_a_type(total: int, shares: dict[TaskType, float]) -> None:
    rows = apportion(total, shares)
    assert sum(rows.values()) == total
    assert list(rows) == list(shares)
    whole = sum(shares.values())
    for task, share in shares.items():
        assert rows[task] >= 0
        assert abs(rows[task] - total * share / whole) < 1 + 1e-6


@given(total=st.integers(0, 1000), shares=mixes)
def test_apportion_is_reproducible(total: int, shares: dict[TaskType, float]) -> None:
    assert apportion(total, shares) == apportion(total, dict(shares))


@given(rows=st.dictionaries(st.sampled_from(TaskType), st.integers(1, 500), min_size=1), factor=st.floats(1e-3, 1e3))
def test_apportion_meets_whole_shares_exactly(rows: dict[TaskType, int], factor: float) -> None:
    total = sum(rows.values())
    assert apportion(total, {task: factor * count for task, count in rows.items()}) == rows


@pytest.mark.parametrize(
    ("total", "shares", "rows"),
    [
        (10, {MATH: 0.5, WRITING: 0.25, LAW: 0.25}, {MATH: 5, WRITING: 3, LAW: 2}),  # a tie goes to the first
        (10, {WRITING: 0.25, MATH: 0.5, LAW: 0.25}, {WRITING: 3, MATH: 5, LAW: 2}),
        (100, {MATH: 1.0, REASONING: 1.0, LAW: 1.0}, {MATH: 34, REASONING: 33, LAW: 33}),
        (7, {MATH: 2.0, LAW: 1.0}, {MATH: 5, LAW: 2}),
        (1, {MATH: 0.4, LAW: 0.6}, {MATH: 0, LAW: 1}),
        (0, {MATH: 1.0}, {MATH: 0}),
        (3, {MATH: 0.1, REASONING: 0.1, LAW: 0.1}, {MATH: 1, REASONING: 1, LAW: 1}),
    ],
)
def test_apportion_of_worked_examples(total: int, shares: dict[TaskType, float], rows: dict[TaskType, int]) -> None:
    assert apportion(total, shares) == rows


def test_apportion_normalises_shares() -> None:
    assert apportion(50, {MATH: 0.167, REASONING: 0.167}) == {MATH: 25, REASONING: 25}


def test_paper_mix_has_32_types_and_boosts_four_to_half() -> None:
    assert set(TAPIR) == set(TaskType)
    assert sum(TAPIR.values()) == pytest.approx(1)
    rows = apportion(500, target_shares(TAPIR, {}))
    assert sum(rows.values()) == 500
    assert [rows[task] for task in BOOSTED] in ([83, 83, 41, 41], [84, 84, 42, 42], [84, 84, 41, 41], [83, 83, 42, 42])
    assert all(8 <= rows[task] <= 9 for task in TaskType if task not in (*BOOSTED, TaskType.OTHERS))


@given(sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=4), shares=mixes)
def test_apportion_parts_keeps_parts_and_whole_within_one_row(sizes: list[int], shares: dict[TaskType, float]) -> None:
    parts = apportion_parts(sizes, shares)
    whole, total = sum(shares.values()), sum(sizes)
    assert [sum(part.values()) for part in parts] == sizes
    for task, share in shares.items():
        for size, part in zip(sizes, parts, strict=True):
            assert part[task] >= 0
            assert abs(part[task] - size * share / whole) < 1 + 1e-6
        assert abs(sum(part[task] for part in parts) - total * share / whole) <= 1 + 1e-6


def test_apportion_parts_corrects_a_type_rounded_up_everywhere() -> None:
    thirds = {MATH: 1.0, REASONING: 1.0, LAW: 1.0}
    assert [apportion(size, thirds) for size in (100, 100, 100)] == [{MATH: 34, REASONING: 33, LAW: 33}] * 3
    parts = apportion_parts((100, 100, 100), thirds)
    assert [sum(part.values()) for part in parts] == [100] * 3
    assert sorted(sum(part[task] for part in parts) for task in thirds) == [99, 100, 101]


@pytest.mark.parametrize("rows", [60, 2000, 4000, 12000])
@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.7])
def test_apportion_parts_of_the_lab_splits_each_part_alone(rows: int, alpha: float) -> None:
    shares = target_shares(yaml.safe_load((PRESETS / "lab.yaml").read_text())["target_distribution"], {})
    sizes = (round(alpha * rows), rows - round(alpha * rows))
    assert apportion_parts(sizes, shares) == [apportion(size, shares) for size in sizes]


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_preset_is_named_after_its_file_and_sums_to_1(preset: str) -> None:
    content = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text())
    assert content["name"] == preset
    ratios = content.get("target_distribution")
    assert (ratios is None) == (preset == "natural")
    assert ratios is None or sum(ratios.values()) == pytest.approx(1, abs=1e-6)


def test_boost_reasoning_keeps_the_paper_ratios_of_other_types() -> None:
    ratios = yaml.safe_load((PRESETS / "boost_reasoning.yaml").read_text())["target_distribution"]
    assert ratios["Math"] == ratios["Reasoning"] == 0.25
    for name, share in TAPIR.items():
        if name not in ("Math", "Reasoning"):
            assert ratios[name] == pytest.approx(share / 0.666 / 2, abs=1.1e-3)


def test_natural_shares_hold_only_types_with_rows() -> None:
    assert natural_shares([LAW, MATH, LAW, LAW]) == {MATH: 0.25, LAW: 0.75}
    assert natural_shares([]) == {}


@given(tasks=st.lists(st.sampled_from(TaskType), min_size=1))
def test_natural_shares_ignore_the_order_of_rows(tasks: list[TaskType]) -> None:
    shares = natural_shares(tasks)
    assert list(shares.items()) == list(natural_shares(sorted(tasks)).items())
    assert {task: round(share * len(tasks)) for task, share in shares.items()} == Counter(tasks)


def test_target_shares_without_target_are_natural() -> None:
    assert target_shares(None, {LAW: 0.75, MATH: 0.25}) == {LAW: 0.75, MATH: 0.25}


def test_target_shares_without_target_and_rows_fail() -> None:
    with pytest.raises(SeedError, match="no natural mix"):
        target_shares(None, {})


def test_target_shares_drop_types_without_share() -> None:
    assert target_shares({"Math": 0.5, "Law": 0.5, "Art": 0.0}, {WRITING: 1.0}) == {MATH: 0.5, LAW: 0.5}


def test_target_shares_of_an_unknown_type_fail() -> None:
    with pytest.raises(ValueError, match="Maths"):
        target_shares({"Maths": 1.0}, {})
