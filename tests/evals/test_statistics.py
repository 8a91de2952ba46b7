"""Every statistic against a value worked by hand or printed in a table."""

import math
from collections.abc import Callable

import pytest

from tapir_exp.evals import statistics as st
from tapir_exp.records import BenchmarkResult
from tapir_exp.taxonomy import TaskType


def result(family: str, exact: bool, task: TaskType = TaskType.MATH) -> BenchmarkResult:
    return BenchmarkResult(
        family=family, task=task, level=1, instruction="i", expected="e", response="r", exact=exact, score=5
    )


def test_mean_and_standard_error_by_hand() -> None:
    estimate = st.mean_and_error([2.0, 4.0, 4.0, 6.0])
    assert (estimate.mean, estimate.n) == (4.0, 4)
    assert estimate.error == pytest.approx(math.sqrt((8 / 3) / 4))


def test_one_value_has_no_error_and_no_interval() -> None:
    assert st.mean_and_error([3.0]) == st.Estimate(3.0, None, 1)
    assert st.t_interval([3.0]) == st.Interval(3.0, None, None, 1)
    assert st.paired_difference([3.0], [1.0]) == st.Difference(2.0, None, None, None, 1)


def test_macro_accuracy_weighs_families_not_problems() -> None:
    rows = [result("a", True)] * 90 + [result("a", False)] * 10 + [result("b", True), result("b", False)] * 2
    estimate = st.macro_accuracy(rows)
    assert estimate.mean == pytest.approx((0.9 + 0.5) / 2)
    assert estimate.error == pytest.approx(math.sqrt(0.9 * 0.1 / 100 + 0.5 * 0.5 / 4) / 2)
    assert estimate.n == 104


def test_macro_error_is_unknown_where_a_part_is() -> None:
    assert st.macro_mean([st.Estimate(0.5, None, 1), st.Estimate(0.7, 0.1, 5)]).error is None


def test_accuracy_by_task_is_macro_over_its_families_in_taxonomy_order() -> None:
    rows = [result("w", True, TaskType.WRITING), result("m1", True), result("m1", True), result("m2", False)]
    by_task = st.accuracy_by_task(rows)
    assert list(by_task) == [TaskType.MATH, TaskType.WRITING]
    assert by_task[TaskType.MATH].mean == 0.5  # 2 of 3 problems, but 1 of 2 families
    assert list(st.accuracy_by_family(rows)) == ["m1", "m2", "w"]


# Student's t, two-sided 95 % and others: NIST/SEMATECH e-Handbook, table 1.3.6.7.2.
@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 4, 2.776),
        (0.975, 9, 2.262),
        (0.975, 30, 2.042),
        (0.95, 5, 2.015),
        (0.995, 10, 3.169),
        (0.999, 3, 10.215),
        (0.9, 100, 1.290),
    ],
)
def test_t_quantile_is_the_table(probability: float, freedom: int, expected: float) -> None:
    assert st.t_quantile(probability, freedom) == pytest.approx(expected, abs=6e-4)
    assert st.t_quantile(1 - probability, freedom) == pytest.approx(-expected, abs=6e-4)


def test_t_quantile_of_the_middle_is_zero() -> None:
    assert st.t_quantile(0.5, 7) == pytest.approx(0.0, abs=1e-9)


def test_t_interval_by_hand() -> None:
    interval = st.t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert interval.low == pytest.approx(3 - half, abs=1e-5)
    assert interval.high == pytest.approx(3 + half, abs=1e-5)


def test_wilson_interval_is_the_published_example() -> None:
    # Newcombe, Stat. Med. 1998;17:857, table I, method 3: 81/263 -> 0.2553 to 0.3662, 0/20 -> 0 to 0.1611.
    interval = st.wilson_interval(81, 263)
    assert interval.low == pytest.approx(0.2553, abs=1e-4)
    assert interval.high == pytest.approx(0.3662, abs=1e-4)
    edge = st.wilson_interval(0, 20)
    assert edge.low == 0.0
    assert edge.high == pytest.approx(0.1611, abs=1e-4)


def test_sign_flip_p_is_exact() -> None:
    assert st.sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0]) == 2 / 32
    assert st.sign_flip_p([-1.0, -2.0, -3.0]) == 2 / 8
    assert st.sign_flip_p([1.0, -1.0]) == 1.0
    assert st.sign_flip_p([3.0, 1.0, -1.0]) == 0.75  # 5, 3, 3, 1: three of four are at least 3


def test_sign_flip_p_does_not_lose_ties_to_rounding() -> None:
    assert st.sign_flip_p([0.1, 0.2, 0.3, -0.3]) == st.sign_flip_p([1.0, 2.0, 3.0, -3.0])


def test_paired_difference_uses_the_pairs() -> None:
    difference = st.paired_difference([0.50, 0.71, 0.92], [0.40, 0.60, 0.80])
    assert difference.mean == pytest.approx(0.11)
    assert difference.high == pytest.approx(0.11 + 4.3027 * 0.01 / 3**0.5, rel=1e-4)
    assert difference.p == 0.25


def test_holm_by_hand() -> None:
    adjusted = st.holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.5})
    assert adjusted == {"a": pytest.approx(0.09), "b": pytest.approx(0.04), "c": pytest.approx(0.09), "d": 0.5}
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert st.holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(
    "call",
    [
        lambda: st.mean_and_error([]),
        lambda: st.t_interval([]),
        lambda: st.macro_accuracy([]),
        lambda: st.accuracy_by_task([]),
        lambda: st.macro_mean([]),
        lambda: st.sign_flip_p([]),
        lambda: st.sign_flip_p([1.0] * 21),
        lambda: st.paired_difference([1.0], [1.0, 2.0]),
        lambda: st.proportion(0, 0),
        lambda: st.t_quantile(1.0, 3),
        lambda: st.t_quantile(0.9, 0),
        lambda: st.holm({"a": 1.2}),
    ],
)
def test_what_is_not_defined_is_an_error(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        call()
