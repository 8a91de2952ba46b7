"""Filling a plan: measured subsets, quotas that no row exceeds, spare rows, and rows of earlier mixes."""

from collections import Counter
from dataclasses import replace

import pytest
from fakes import example, plan_settings, training_row
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.core.records import Subset, TrainingExample
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.curriculum.filling import fill_plan, measured_rows, replay_rows
from tapir_exp.distillation.curriculum.sampling import Candidate, RoundPlan, plan_round

MATH, LAW = TaskType.MATH, TaskType.LAW


def plan(rows: int = 20, alpha: float = 0.5, new_share: float | None = 0.5, held: int = 12) -> RoundPlan:
    """Plan a mix of one task type from a pool with equally many hard and other rows."""
    pool = [Candidate(example(f"{subset} {n}"), MATH, 3.0, subset) for subset in Subset for n in range(held)]
    return plan_round(pool, replace(plan_settings({MATH: 1.0}, rows, alpha), new_share=new_share))


def written(hard: int, rest: int) -> list[TrainingExample]:
    names = [("hard", n) for n in range(hard)] + [("rest", n) for n in range(rest)]
    return [training_row(f"new {subset} {n}", subset=subset) for subset, n in names]


def test_measured_rows_have_the_subset_and_score_of_their_gap() -> None:
    rows = [training_row(name, subset=subset) for name, subset in [("a", "hard"), ("b", "hard"), ("c", "rest")]]
    a, b, c = (row.id for row in rows)
    measured = measured_rows(rows, {a: 5.0, c: 4.0}, {a, c})
    assert [(row.id, row.subset, row.difficulty) for row in measured] == [(a, "hard", 5.0), (c, "hard", 4.0)]
    assert [row.subset for row in measured_rows(rows, {b: -1.0}, {a})] == ["rest"]


@given(hard=st.integers(0, 30), rest=st.integers(0, 30), new_share=st.none() | st.floats(0, 1), held=st.integers(0, 15))
def test_fill_plan_never_exceeds_a_quota(hard: int, rest: int, new_share: float | None, held: int) -> None:
    planned = plan(new_share=new_share, held=held)
    filled = fill_plan(planned, written(hard, rest))
    counts = Counter(row.subset for row in filled.rows)
    assert len({row.id for row in filled.rows}) == len(filled.rows)
    for quota in filled.quotas:
        offered = hard if quota.subset is Subset.HARD else rest
        assert quota.filled == min(quota.ordered, offered)
        assert quota.drawn + quota.filled == counts[quota.subset] == min(quota.wanted, held + quota.filled)


def test_fill_plan_leaves_rows_beyond_a_quota_out() -> None:
    filled = fill_plan(plan(new_share=1.0), written(15, 4))
    assert [row.instruction for row in filled.new] == [f"new hard {n}" for n in range(10)] + [
        f"new rest {n}" for n in range(4)
    ]
    assert Counter(candidate.subset for candidate in filled.drawn) == {Subset.REST: 6}


def test_fill_plan_ignores_rows_of_other_types() -> None:
    assert fill_plan(plan(held=0), [training_row("law", task=LAW)]).new == ()


def mix(*names: str, **fields: object) -> list[TrainingExample]:
    return [training_row(name, **fields) for name in names]


def test_replay_rows_of_everything_are_the_newest_of_each_row() -> None:
    first, second = mix("a", "b", "c", response="old"), mix("b", "d", response="new", subset="rest")
    replayed = replay_rows(mix("c", "e"), [first, second], 1.0, "draw")
    assert {row.instruction: (row.response, row.subset) for row in replayed} == {
        "a": ("old", "hard"),
        "b": ("new", "rest"),
        "d": ("new", "rest"),
    }
    assert len(replayed) == 3


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 10), (1.0, 40)])
def test_replay_rows_draws_the_share_of_each_mix(share: float, count: int) -> None:
    earlier = [mix(*(f"{number} {n}" for n in range(20))) for number in range(2)]
    replayed = replay_rows([], earlier, share, "draw")
    assert len(replayed) == count
    assert Counter(row.instruction[0] for row in replayed) == Counter({"0": count // 2, "1": count // 2})


def test_replay_rows_depend_on_the_draw_only() -> None:
    earlier = [mix(*(f"row {n}" for n in range(40)))]
    draws = [frozenset(row.id for row in replay_rows([], earlier, 0.5, draw)) for draw in ("a", "a", "b")]
    assert draws[0] == draws[1] != draws[2]


@given(
    names=st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6), min_size=1, max_size=4),
    share=st.floats(0, 1),
)
def test_replay_rows_never_repeat_a_row(names: list[list[str]], share: float) -> None:
    mixes = [mix(*of_mix) for of_mix in names]
    *earlier, current = mixes
    rows = [*current, *replay_rows(current, earlier, share, "draw")]
    assert len({row.id for row in rows}) == len(rows)
