"""Diagnostics of a judge, each compared with a figure that was computed by hand."""

from math import sqrt
from random import Random

import pytest

from tapir_exp.core.records import JudgeReply, PresentationOrder, Verdict
from tapir_exp.distillation.judge.diagnostics import JudgeDiagnostics, Lengths, diagnose_judge
from tapir_exp.distillation.judge.score import build_verdict

EQUAL = Lengths(10, 10)


def reply(order: PresentationOrder, teacher: float | None, student: float | None) -> JudgeReply:
    failure = None if teacher is not None or student is not None else "unreadable reply"
    return JudgeReply(order=order, teacher=teacher, student=student, raw="", failure=failure)


def both(row_id: str, first: tuple[float, float], second: tuple[float, float]) -> Verdict:
    """Return a verdict from (teacher, student) scores with the teacher first, and with the student first."""
    orders = (PresentationOrder.TEACHER_FIRST, PresentationOrder.STUDENT_FIRST)
    return build_verdict(row_id, [reply(order, *scores) for order, scores in zip(orders, (first, second), strict=True)])


def figures(*verdicts: Verdict, **lengths: Lengths) -> JudgeDiagnostics:
    return diagnose_judge(verdicts, {verdict.id: lengths.get(verdict.id, EQUAL) for verdict in verdicts})


def test_diagnose_judge_flip_is_two_orders_with_two_winners() -> None:
    diagnostics = figures(
        both("flip", (8, 6), (5, 7)),
        both("tie in one", (8, 6), (6, 6)),
        both("same", (8, 6), (7, 3)),
        both("b", (1, 2), (1, 3)),
    )
    assert (diagnostics.flips, diagnostics.flip_share) == (1, 0.25)


def test_diagnose_judge_position_bias_is_half_the_difference() -> None:
    diagnostics = figures(both("a", (8, 6), (7, 7)), both("b", (6, 6), (6, 6)), both("c", (9, 5), (9, 9)))
    assert diagnostics.position_bias == pytest.approx((1 + 0 + 2) / 3)
    assert diagnostics.position_bias_se == pytest.approx(1 / sqrt(3))


@pytest.mark.parametrize("bias", [1.0, -0.5, 0.0])
def test_diagnose_judge_measures_a_known_bias(bias: float) -> None:
    rng = Random(0)

    def noisy(teacher: float, student: float) -> tuple[float, float]:
        return teacher + rng.gauss(0, 0.5), student + rng.gauss(0, 0.5)

    verdicts = [both(str(n), noisy(7 + bias, 5), noisy(7, 5 + bias)) for n in range(400)]
    diagnostics = figures(*verdicts)
    assert diagnostics.position_bias_se is not None
    assert diagnostics.position_bias == pytest.approx(bias, abs=4 * diagnostics.position_bias_se)
    assert diagnostics.position_bias_se == pytest.approx(0.5 / sqrt(400), rel=0.15)


def test_diagnose_judge_ties_and_unscored_are_shares() -> None:
    unscored = build_verdict(
        "unscored", [reply(PresentationOrder.TEACHER_FIRST, 5, 5), reply(PresentationOrder.STUDENT_FIRST, None, None)]
    )
    diagnostics = figures(both("a", (5, 5), (5, 5)), both("b", (5, 6), (6, 5)), both("c", (9, 5), (9, 5)), unscored)
    assert (diagnostics.unscored, diagnostics.ties) == (0.25, pytest.approx(2 / 3))


def test_diagnose_judge_counts_wins_of_the_longer_response() -> None:
    diagnostics = figures(
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
    assert diagnostics.longer_wins == pytest.approx(2 / 3)


def test_diagnose_judge_correlates_gap_with_log_length() -> None:
    lengths = {"a": Lengths(10, 10), "b": Lengths(100, 10), "c": Lengths(10, 100), "d": Lengths(1000, 10)}
    verdicts = [both(row_id, (5 + gap, 5), (5 + gap, 5)) for row_id, gap in {"a": 0, "b": 2, "c": -2, "d": 4}.items()]
    assert diagnose_judge(verdicts, lengths).length_correlation == pytest.approx(1)


def test_diagnose_judge_accepts_an_empty_response() -> None:
    assert figures(both("a", (9, 1), (9, 1)), a=Lengths(10, 0)).longer_wins == 1


def test_diagnose_judge_undetermined_figures_are_none() -> None:
    one_order = build_verdict("a", [reply(PresentationOrder.TEACHER_FIRST, 8, 6)])
    alone = build_verdict(
        "b", [reply(PresentationOrder.TEACHER_ALONE, 8, None), reply(PresentationOrder.STUDENT_ALONE, None, 6)]
    )
    for diagnostics in (figures(one_order), figures(alone)):
        assert (diagnostics.flips, diagnostics.flip_share, diagnostics.position_bias, diagnostics.position_bias_se) == (
            0,
            None,
            None,
            None,
        )
        assert (diagnostics.longer_wins, diagnostics.length_correlation) == (None, None)
        assert diagnostics.ties == 0


def test_diagnose_judge_without_verdicts_has_no_figures() -> None:
    assert diagnose_judge([], {}) == JudgeDiagnostics(0.0, None, 0, None, None, None, None, None)
