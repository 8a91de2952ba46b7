"""Statistics against values computed by hand or printed in published tables."""

import math
import random
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given
from hypothesis.strategies import integers, lists

from tapir_exp.core.records import BenchmarkResult
from tapir_exp.core.task_types import TaskType
from tapir_exp.evals import statistics as st


def result(family: str, exact: bool, task: TaskType = TaskType.MATH, level: int = 1) -> BenchmarkResult:
    return BenchmarkResult(
        family=family, task=task, level=level, instruction="i", expected="e", response="r", exact=exact, score=5
    )


def test_mean_and_error_matches_hand_computation() -> None:
    estimate = st.mean_and_error([2.0, 4.0, 4.0, 6.0])
    assert (estimate.mean, estimate.n) == (4.0, 4)
    assert estimate.error == pytest.approx(math.sqrt((8 / 3) / 4))


def test_single_value_has_no_error_and_no_interval() -> None:
    assert st.mean_and_error([3.0]) == st.Estimate(3.0, None, 1)
    assert st.t_interval([3.0]) == st.Interval(3.0, None, None, 1)
    assert st.paired_difference([3.0], [1.0]) == st.Difference(2.0, None, None, None, 1)


def test_macro_accuracy_weights_families_equally() -> None:
    rows = [result("a", True)] * 90 + [result("a", False)] * 10 + [result("b", True), result("b", False)] * 2
    estimate = st.macro_accuracy(rows)
    assert estimate.mean == pytest.approx((0.9 + 0.5) / 2)
    assert estimate.error == pytest.approx(math.sqrt(0.9 * 0.1 / 100 + 0.5 * 0.5 / 4) / 2)
    assert estimate.n == 104


def test_macro_mean_unknown_part_error_gives_none() -> None:
    assert st.macro_mean([st.Estimate(0.5, None, 1), st.Estimate(0.7, 0.1, 5)]).error is None


def test_accuracy_by_task_is_macro_over_families() -> None:
    rows = [result("w", True, TaskType.WRITING), result("m1", True), result("m1", True), result("m2", False)]
    by_task = st.accuracy_by_task(rows)
    assert list(by_task) == [TaskType.MATH, TaskType.WRITING]
    assert by_task[TaskType.MATH].mean == 0.5  # 2 of 3 problems, but 1 of 2 families
    assert list(st.accuracy_by_family(rows)) == ["m1", "m2", "w"]


def test_accuracy_by_level_is_macro_over_families() -> None:
    rows = [result("a", True), result("a", True), result("b", False)]
    rows += [result("b", True, level=10), result("a", False, level=2)]
    by_level = st.accuracy_by_level(rows)
    assert {level: estimate.mean for level, estimate in by_level.items()} == {1: 0.5, 2: 0.0, 10: 1.0}
    assert list(by_level) == [1, 2, 10]


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
def test_t_quantile_matches_the_nist_table(probability: float, freedom: int, expected: float) -> None:
    assert st.t_quantile(probability, freedom) == pytest.approx(expected, abs=6e-4)
    assert st.t_quantile(1 - probability, freedom) == pytest.approx(-expected, abs=6e-4)


def test_t_quantile_of_one_half_is_zero() -> None:
    assert st.t_quantile(0.5, 7) == pytest.approx(0.0, abs=1e-9)


def test_t_interval_matches_hand_computation() -> None:
    interval = st.t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert interval.low == pytest.approx(3 - half, abs=1e-5)
    assert interval.high == pytest.approx(3 + half, abs=1e-5)


def test_wilson_interval_matches_published_examples() -> None:
    # Source: Newcombe, Stat. Med. 1998;17:857, table I, method 3: 81/263 -> 0.2553 to 0.3662, 0/20 -> 0 to 0.1611.
    interval = st.wilson_interval(81, 263)
    assert interval.low == pytest.approx(0.2553, abs=1e-4)
    assert interval.high == pytest.approx(0.3662, abs=1e-4)
    edge = st.wilson_interval(0, 20)
    assert edge.low == 0.0
    assert edge.high == pytest.approx(0.1611, abs=1e-4)


def test_sign_flip_p_small_cases_are_exact() -> None:
    assert st.sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0]) == 2 / 32
    assert st.sign_flip_p([-1.0, -2.0, -3.0]) == 2 / 8
    assert st.sign_flip_p([1.0, -1.0]) == 1.0
    assert st.sign_flip_p([3.0, 1.0, -1.0]) == 0.75  # 5, 3, 3, 1: three of four are at least 3


@given(lists(integers(-4, 4).map(float), min_size=1, max_size=9))
def test_sign_flip_p_matches_exhaustive_enumeration(differences: list[float]) -> None:
    patterns = product((1, -1), repeat=len(differences))
    sums = [sum(sign * d for sign, d in zip(signs, differences, strict=True)) for signs in patterns]
    assert st.sign_flip_p(differences) == sum(abs(s) >= abs(sum(differences)) for s in sums) / len(sums)


def test_sign_flip_p_above_max_flips_is_none() -> None:
    n = st.MAX_FLIPS
    assert st.sign_flip_p([1.0] * n) == 2 / 2**n
    assert st.sign_flip_p([1.0] * (n + 1)) is None
    assert st.paired_difference([1.0] * (n + 1), [0.5] * (n + 1)).p is None


def test_sign_flip_p_counts_ties_despite_rounding() -> None:
    assert st.sign_flip_p([0.1, 0.2, 0.3, -0.3]) == st.sign_flip_p([1.0, 2.0, 3.0, -3.0])


def test_paired_difference_uses_the_pairing() -> None:
    difference = st.paired_difference([0.50, 0.71, 0.92], [0.40, 0.60, 0.80])
    assert difference.mean == pytest.approx(0.11)
    assert difference.high == pytest.approx(0.11 + 4.3027 * 0.01 / 3**0.5, rel=1e-4)
    assert difference.p == 0.25


def test_holm_matches_hand_computation() -> None:
    adjusted = st.holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.5})
    assert adjusted == {"a": pytest.approx(0.09), "b": pytest.approx(0.04), "c": pytest.approx(0.09), "d": 0.5}
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert st.holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_lattice_flip_p_matches_sign_flip_p() -> None:
    for differences in ([1.0, 2.0, -1.0, 3.0], [0.5, 0.5, -0.5], [4.5, -1.0, 2.5, 0.0, -3.0, 1.5]):
        assert st.lattice_flip_p(differences, 0.5) == st.sign_flip_p(differences)
    assert st.lattice_flip_p([1.0] * 60, 1.0) == 2 / 2**60
    assert st.lattice_flip_p([0.0] * 60, 1.0) == 1.0


def test_sign_test_p_matches_hand_computation() -> None:
    assert st.sign_test_p([1.0] * 8 + [-0.1] * 2) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert st.sign_test_p([0.0, 0.0, 3.0]) == 1.0
    assert st.sign_test_p([0.0]) == 1.0
    assert st.sign_test_p([1.0] * 805) == 2 / 2**805


def test_bootstrap_difference_covers_instructions_and_seeds() -> None:
    rng = random.Random(0)
    instructions = [rng.gauss(1, 2) for _ in range(400)]
    alone = st.bootstrap_difference([instructions])
    normal = 1.96 * st.mean_and_error(instructions).error  # type: ignore[operator]
    assert alone.mean == pytest.approx(sum(instructions) / 400)
    assert alone.high - alone.mean == pytest.approx(normal, rel=0.12)
    assert alone.mean - alone.low == pytest.approx(normal, rel=0.12)  # type: ignore[operator]
    seeds = [[x + shift for x in instructions] for shift in (-2.0, 0.0, 2.0)]
    several = st.bootstrap_difference(seeds)
    assert several.mean == pytest.approx(alone.mean)
    assert several.high - several.low > 3 * (alone.high - alone.low)  # type: ignore[operator]
    assert st.bootstrap_difference([instructions]) == alone
    assert st.bootstrap_difference([[3.0]]) == st.Interval(3.0, None, None, 1)


def test_bootstrap_difference_repeated_seed_keeps_the_width() -> None:
    rng = random.Random(1)
    row = [rng.gauss(0, 1) for _ in range(200)]
    one, five = st.bootstrap_difference([row]), st.bootstrap_difference([row] * 5)
    assert five.high - five.low == pytest.approx(one.high - one.low, rel=0.12)  # type: ignore[operator]


@pytest.mark.parametrize(
    "call",
    [
        lambda: st.lattice_flip_p([], 1.0),
        lambda: st.lattice_flip_p([0.5], 1.0),
        lambda: st.sign_test_p([]),
        lambda: st.bootstrap_difference([]),
        lambda: st.bootstrap_difference([[]]),
        lambda: st.bootstrap_difference([[1.0], [1.0, 2.0]]),
        lambda: st.mean_and_error([]),
        lambda: st.t_interval([]),
        lambda: st.macro_accuracy([]),
        lambda: st.accuracy_by_task([]),
        lambda: st.accuracy_by_level([]),
        lambda: st.macro_mean([]),
        lambda: st.sign_flip_p([]),
        lambda: st.paired_difference([1.0], [1.0, 2.0]),
        lambda: st.proportion(0, 0),
        lambda: st.t_quantile(1.0, 3),
        lambda: st.t_quantile(0.9, 0),
        lambda: st.holm({"a": 1.2}),
    ],
)
def test_undefined_statistics_fail(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        call()
