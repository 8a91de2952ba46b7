"""The gap is teacher minus student, unscored rows have none, and the hard set is above delta."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.config import CurriculumConfig, Difficulty
from tapir_exp.core.records import Verdict
from tapir_exp.distillation.curriculum.difficulty import (
    choose_hard,
    instruction_following_difficulty,
    rated_complexity,
    response_length,
    rollout_spread,
    scored_gaps,
)

gap_maps = st.dictionaries(st.text("abcdef", min_size=1), st.floats(-9, 9), max_size=30)


def verdict(row_id: str, teacher: float | None, student: float | None) -> Verdict:
    return Verdict(id=row_id, replies=(), teacher=teacher, student=student)


def chosen(scores: dict[str, float], delta: float, how: Difficulty, seed: int, share: float = 0.5) -> frozenset[str]:
    return choose_hard(
        scores, CurriculumConfig(difficulty=how, delta=delta, hard_fraction=share, rows_per_round=1), seed
    )


def test_scored_gaps_are_teacher_minus_student() -> None:
    assert scored_gaps([verdict("a", 9, 4), verdict("b", 4, 9), verdict("c", 7, 7)]) == {"a": 5, "b": -5, "c": 0}


@pytest.mark.parametrize(("teacher", "student"), [(None, None), (9.0, None), (None, 4.0)])
def test_scored_gaps_omit_unscored_rows(teacher: float | None, student: float | None) -> None:
    assert scored_gaps([verdict("a", teacher, student), verdict("b", 5, 5)]) == {"b": 0}


def test_choose_hard_takes_a_gap_of_five_at_delta_two() -> None:
    gaps = scored_gaps([verdict("hard", 9, 4), verdict("easy", 4, 9)])
    assert chosen(gaps, 2, Difficulty.mfd, 0) == {"hard"}


@pytest.mark.parametrize(
    ("delta", "hard"),
    [(-9.5, "abcd"), (-1, "bcd"), (0, "cd"), (1.9, "cd"), (2, "d"), (2.1, "d"), (4.5, ""), (9, "")],
)
def test_choose_hard_takes_gaps_strictly_above_delta(delta: float, hard: str) -> None:
    gaps = {"a": -1.0, "b": 0.0, "c": 2.0, "d": 4.5}
    assert chosen(gaps, delta, Difficulty.mfd, 0) == set(hard)


@given(gaps=gap_maps, delta=st.floats(-9, 9), seed=st.integers(0, 5))
def test_random_set_has_the_size_of_the_hard_set(gaps: dict[str, float], delta: float, seed: int) -> None:
    drawn = chosen(gaps, delta, Difficulty.random, seed)
    assert len(drawn) == len(chosen(gaps, delta, Difficulty.mfd, seed))
    assert drawn <= gaps.keys()


@given(gaps=gap_maps, delta=st.floats(-9, 9), data=st.data())
def test_random_set_ignores_which_row_has_which_gap(gaps: dict[str, float], delta: float, data: st.DataObject) -> None:
    shuffled = dict(zip(gaps, data.draw(st.permutations(list(gaps.values()))), strict=True))
    assert chosen(gaps, delta, Difficulty.random, 1) == chosen(shuffled, delta, Difficulty.random, 1)


def test_random_set_depends_on_the_seed_and_favours_no_row() -> None:
    gaps = {str(row): float(row % 2) for row in range(40)}
    draws = [chosen(gaps, 0.5, Difficulty.random, seed) for seed in range(300)]
    assert len(set(draws)) == 300
    counts = [sum(row in drawn for drawn in draws) for row in gaps]
    assert all(100 < count < 200 for count in counts)  # binomial(300, 1/2) ± 5.8 sd
    of_the_hard = [len(drawn & chosen(gaps, 0.5, Difficulty.mfd, 0)) for drawn in draws]
    assert statistics.fmean(of_the_hard) == pytest.approx(10, abs=0.5)


BY_SHARE = [how for how in Difficulty if how not in (Difficulty.mfd, Difficulty.random)]


@pytest.mark.parametrize("how", BY_SHARE)
@pytest.mark.parametrize(("share", "hard"), [(0, ""), (0.25, "d"), (0.5, "cd"), (0.6, "cd"), (1, "abcd")])
def test_other_scores_select_the_highest_fraction(how: Difficulty, share: float, hard: str) -> None:
    assert chosen({"a": 0.1, "b": 0.2, "c": 0.9, "d": 700.0}, -9, how, 0, share) == set(hard)


@given(scores=gap_maps, share=st.floats(0, 1), seed=st.integers(0, 5))
def test_other_scores_leave_no_higher_row_unselected(scores: dict[str, float], share: float, seed: int) -> None:
    hard = chosen(scores, 0, Difficulty.ifd, seed, share)
    assert len(hard) == round(share * len(scores))
    rest = [score for row, score in scores.items() if row not in hard]
    assert not hard or not rest or min(scores[row] for row in hard) >= max(rest)


def test_ties_are_decided_by_the_seed() -> None:
    scores = {str(row): 5.0 for row in range(40)}
    draws = {chosen(scores, 0, Difficulty.judge_rated, seed) for seed in range(50)}
    assert len(draws) == 50
    assert chosen(scores, 0, Difficulty.judge_rated, 3) == chosen(
        dict(reversed(scores.items())), 0, Difficulty.judge_rated, 3
    )


def test_ifd_is_the_ratio_of_the_losses() -> None:
    assert instruction_following_difficulty(1.5, 3.0) == 0.5
    assert instruction_following_difficulty(3.0, 1.5) == 2.0  # the instruction only confuses


@pytest.mark.parametrize(
    ("rewards", "beta", "spread"),
    [
        ([5, 5, 5], 1.0, 0.0),
        ([1, 10], 1e-3, 10 - 5.5),
        ([1, 10], 1e9, 0.0),
        ([1, 3], 2 / math.log(3), (1 * 0.25 + 3 * 0.75) - 2),
    ],
)
def test_rollout_spread_is_the_soft_maximum_above_the_mean(rewards: list[float], beta: float, spread: float) -> None:
    assert rollout_spread(rewards, beta) == pytest.approx(spread, abs=1e-6)


@given(rewards=st.lists(st.floats(1, 10), min_size=2, max_size=8), beta=st.floats(0.01, 100))
def test_rollout_spread_is_bounded_and_shift_invariant(rewards: list[float], beta: float) -> None:
    spread = rollout_spread(rewards, beta)
    assert -1e-9 <= spread <= max(rewards) - statistics.fmean(rewards) + 1e-9
    assert rollout_spread([reward + 3 for reward in rewards], beta) == pytest.approx(spread, abs=1e-6)


def test_complexity_is_the_rating_and_length_counts_characters() -> None:
    assert (rated_complexity(7.5), response_length("två ord"), response_length("")) == (7.5, 7, 0)
