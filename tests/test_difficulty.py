"""The gap is teacher minus student, what is unscored has none, and the hard set lies above delta."""

import statistics
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.config import HardSet
from tapir_exp.difficulty import choose_hard, scored_gaps, uniform
from tapir_exp.records import Verdict

gap_maps = st.dictionaries(st.text("abcdef", min_size=1), st.floats(-9, 9), max_size=30)


def verdict(row: str, teacher: float | None, student: float | None) -> Verdict:
    return Verdict(id=row, ballots=(), teacher=teacher, student=student)


def test_a_better_teacher_makes_a_positive_gap() -> None:
    assert scored_gaps([verdict("a", 9, 4), verdict("b", 4, 9), verdict("c", 7, 7)]) == {"a": 5, "b": -5, "c": 0}


@pytest.mark.parametrize(("teacher", "student"), [(None, None), (9.0, None), (None, 4.0)])
def test_an_unscored_row_is_absent_and_not_zero(teacher: float | None, student: float | None) -> None:
    assert scored_gaps([verdict("a", teacher, student), verdict("b", 5, 5)]) == {"b": 0}


def test_a_gap_of_five_is_hard_at_delta_two() -> None:
    gaps = scored_gaps([verdict("hard", 9, 4), verdict("easy", 4, 9)])
    assert choose_hard(gaps, 2, HardSet.mfd, seed=0) == {"hard"}


@pytest.mark.parametrize(
    ("delta", "hard"),
    [(-9.5, "abcd"), (-1, "bcd"), (0, "cd"), (1.9, "cd"), (2, "d"), (2.1, "d"), (4.5, ""), (9, "")],
)
def test_the_hard_set_lies_strictly_above_delta(delta: float, hard: str) -> None:
    gaps = {"a": -1.0, "b": 0.0, "c": 2.0, "d": 4.5}
    assert choose_hard(gaps, delta, HardSet.mfd, seed=0) == set(hard)


@given(gaps=gap_maps, delta=st.floats(-9, 9), seed=st.integers(0, 5))
def test_a_random_set_has_the_size_of_the_hard_one(gaps: dict[str, float], delta: float, seed: int) -> None:
    drawn = choose_hard(gaps, delta, HardSet.random, seed)
    assert len(drawn) == len(choose_hard(gaps, delta, HardSet.mfd, seed))
    assert drawn <= gaps.keys()


@given(gaps=gap_maps, delta=st.floats(-9, 9), data=st.data())
def test_a_random_set_does_not_depend_on_which_row_has_which_gap(
    gaps: dict[str, float], delta: float, data: st.DataObject
) -> None:
    shuffled = dict(zip(gaps, data.draw(st.permutations(list(gaps.values()))), strict=True))
    assert choose_hard(gaps, delta, HardSet.random, 1) == choose_hard(shuffled, delta, HardSet.random, 1)


def test_another_seed_draws_another_random_set_that_favours_no_row() -> None:
    gaps = {str(row): float(row % 2) for row in range(40)}
    draws = [choose_hard(gaps, 0.5, HardSet.random, seed) for seed in range(300)]
    assert len(set(draws)) == 300
    chosen = [sum(row in drawn for drawn in draws) for row in gaps]
    assert all(100 < count < 200 for count in chosen)  # binomial(300, 1/2) ± 5.8 sd
    of_the_hard = [len(drawn & choose_hard(gaps, 0.5, HardSet.mfd, 0)) for drawn in draws]
    assert statistics.fmean(of_the_hard) == pytest.approx(10, abs=0.5)


@pytest.mark.parametrize(
    ("parts", "number"),
    [((0, "draw", "a"), 0.189651811), ((1, "draw", "a"), 0.5077136), (("0", "draw", "a"), 0.189651811)],
)
def test_uniform_numbers_are_the_same_on_every_machine(parts: Sequence[object], number: float) -> None:
    assert uniform(*parts) == pytest.approx(number, abs=1e-8)


def test_uniform_tells_its_parts_apart() -> None:
    assert len({uniform("ab", "c"), uniform("a", "bc"), uniform("abc"), uniform("c", "ab")}) == 4


def test_uniform_numbers_are_uniform() -> None:
    numbers = sorted(uniform(0, n) for n in range(2000))
    assert 0 < numbers[0] < numbers[-1] < 1
    assert max(abs(number - n / 2000) for n, number in enumerate(numbers)) < 0.04  # Kolmogorov: p about 0.003
