"""A judge's own faults show in its verdicts: each figure against one worked out by hand."""

from math import sqrt
from random import Random

import pytest

from tapir_exp.core.records import JudgeReply, PresentationOrder, Verdict
from tapir_exp.distillation.judge.diagnostics import JudgeDiagnostics, Lengths, diagnose_judge
from tapir_exp.distillation.judge.score import build_verdict

EQUAL = Lengths(10, 10)


def ballot(order: PresentationOrder, teacher: float | None, student: float | None) -> JudgeReply:
    failure = None if teacher is not None or student is not None else "unreadable reply"
    return JudgeReply(order=order, teacher=teacher, student=student, raw="", failure=failure)


def both(row: str, first: tuple[float, float], second: tuple[float, float]) -> Verdict:
    """A verdict by (teacher, student) with the teacher first, and with the student first."""
    orders = (PresentationOrder.TEACHER_FIRST, PresentationOrder.STUDENT_FIRST)
    return build_verdict(row, [ballot(order, *scores) for order, scores in zip(orders, (first, second), strict=True)])


def figures(*verdicts: Verdict, **lengths: Lengths) -> JudgeDiagnostics:
    return diagnose_judge(verdicts, {verdict.id: lengths.get(verdict.id, EQUAL) for verdict in verdicts})


def test_a_flip_is_two_orders_with_two_winners() -> None:
    found = figures(
        both("flip", (8, 6), (5, 7)),
        both("tie in one", (8, 6), (6, 6)),
        both("same", (8, 6), (7, 3)),
        both("b", (1, 2), (1, 3)),
    )
    assert (found.flips, found.flip_share) == (1, 0.25)


def test_the_bias_of_the_first_place_is_half_of_what_the_orders_differ_by() -> None:
    found = figures(both("a", (8, 6), (7, 7)), both("b", (6, 6), (6, 6)), both("c", (9, 5), (9, 9)))
    assert found.position_bias == pytest.approx((1 + 0 + 2) / 3)
    assert found.position_bias_se == pytest.approx(1 / sqrt(3))


@pytest.mark.parametrize("bias", [1.0, -0.5, 0.0])
def test_a_planted_bias_is_found(bias: float) -> None:
    rng = Random(0)

    def heard(teacher: float, student: float) -> tuple[float, float]:
        return teacher + rng.gauss(0, 0.5), student + rng.gauss(0, 0.5)

    verdicts = [both(str(n), heard(7 + bias, 5), heard(7, 5 + bias)) for n in range(400)]
    found = figures(*verdicts)
    assert found.position_bias_se is not None
    assert found.position_bias == pytest.approx(bias, abs=4 * found.position_bias_se)
    assert found.position_bias_se == pytest.approx(0.5 / sqrt(400), rel=0.15)


def test_ties_and_unscored_rows_are_shares() -> None:
    lost = build_verdict(
        "lost", [ballot(PresentationOrder.TEACHER_FIRST, 5, 5), ballot(PresentationOrder.STUDENT_FIRST, None, None)]
    )
    found = figures(both("a", (5, 5), (5, 5)), both("b", (5, 6), (6, 5)), both("c", (9, 5), (9, 5)), lost)
    assert (found.unscored, found.ties) == (0.25, pytest.approx(2 / 3))


def test_the_longer_answer_wins_as_often_as_it_does() -> None:
    found = figures(
        both("a", (9, 5), (9, 5)),
        both("b", (5, 9), (5, 9)),
        both("c", (9, 5), (9, 5)),
        both("tie", (5, 5), (5, 5)),
        both("equal", (9, 5), (9, 5)),
        a=Lengths(20, 10),
        b=Lengths(10, 20),
        c=Lengths(10, 20),
        tie=Lengths(99, 1),
    )
    assert found.longer_wins == pytest.approx(2 / 3)


def test_gap_and_length_correlate_on_a_logarithmic_scale() -> None:
    lengths = {"a": Lengths(10, 10), "b": Lengths(100, 10), "c": Lengths(10, 100), "d": Lengths(1000, 10)}
    verdicts = [both(row, (5 + gap, 5), (5 + gap, 5)) for row, gap in {"a": 0, "b": 2, "c": -2, "d": 4}.items()]
    assert diagnose_judge(verdicts, lengths).length_correlation == pytest.approx(1)


def test_an_empty_answer_has_a_length_too() -> None:
    assert figures(both("a", (9, 1), (9, 1)), a=Lengths(10, 0)).longer_wins == 1


def test_what_the_verdicts_do_not_tell_is_none() -> None:
    one = build_verdict("a", [ballot(PresentationOrder.TEACHER_FIRST, 8, 6)])
    alone = build_verdict(
        "b", [ballot(PresentationOrder.TEACHER_ALONE, 8, None), ballot(PresentationOrder.STUDENT_ALONE, None, 6)]
    )
    for found in (figures(one), figures(alone)):
        assert (found.flips, found.flip_share, found.position_bias, found.position_bias_se) == (0, None, None, None)
        assert (found.longer_wins, found.length_correlation) == (None, None)
        assert found.ties == 0


def test_no_verdicts_are_no_reason_to_fail() -> None:
    assert diagnose_judge([], {}) == JudgeDiagnostics(0.0, None, 0, None, None, None, None, None)
