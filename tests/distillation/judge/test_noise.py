"""Noise of gaps: recovered from simulated judges, and rows whose orders disagree are trusted less."""

from random import Random
from statistics import fmean, pvariance

import pytest

from tapir_exp.core.records import BOTH_ORDERS, JudgeReply, Verdict
from tapir_exp.distillation.judge.noise import estimate_noise, expected_false_rows, shrunk_gaps
from tapir_exp.distillation.judge.score import build_verdict


def verdict(row_id: str, first: float, second: float) -> Verdict:
    """Return a verdict with these leads of the teacher in both orders."""
    replies = [
        JudgeReply(order=order, teacher=5 + lead, student=5, raw="")
        for order, lead in zip(BOTH_ORDERS, (first, second), strict=True)
    ]
    return build_verdict(row_id, replies)


def simulate(rows: int, noise: float, bias: float = 0.0) -> tuple[list[float], list[Verdict]]:
    """Return true gaps, with mean 1 and deviation 2, and verdicts with noise in each order."""
    r = Random(3)
    true = [r.gauss(1, 2) for _ in range(rows)]
    leads = [(gap + bias + r.gauss(0, noise), gap - bias + r.gauss(0, noise)) for gap in true]
    return true, [verdict(str(index), *pair) for index, pair in enumerate(leads)]


@pytest.mark.parametrize(("noise", "bias"), [(0.5, 0.0), (2.0, 0.0), (2.0, 1.5)])
def test_estimate_noise_recovers_the_noise_of_a_judge(noise: float, bias: float) -> None:
    true, verdicts = simulate(4000, noise, bias)
    found = estimate_noise(verdicts)
    assert found is not None
    assert found.noise == pytest.approx(noise**2 / 2, rel=0.1)
    assert found.reliability == pytest.approx(pvariance(true) / (pvariance(true) + noise**2 / 2), abs=0.03)
    assert found.bias == pytest.approx(2 * bias, abs=0.15)


def test_expected_false_rows_match_the_rows_that_are_false() -> None:
    true, verdicts = simulate(4000, 2.0)
    found = estimate_noise(verdicts)
    assert found is not None
    chosen, expected = expected_false_rows(verdicts, found, 2.0)
    above = [gap for gap, row in zip(true, verdicts, strict=True) if row.gap is not None and row.gap > 2]
    assert chosen == len(above)
    assert expected == pytest.approx(sum(gap <= 2 for gap in above), rel=0.15)


def test_shrunk_gaps_of_a_noisy_judge_are_nearer_to_the_truth() -> None:
    true, verdicts = simulate(4000, 3.0)
    shrunk = shrunk_gaps(verdicts, 0.0, shrink=True)
    errors = [(shrunk[row.id] - gap) ** 2 for gap, row in zip(true, verdicts, strict=True)]
    plain = [(row.gap - gap) ** 2 for gap, row in zip(true, verdicts, strict=True) if row.gap is not None]
    assert fmean(errors) < 0.75 * fmean(plain)


def test_shrunk_gaps_trust_a_row_less_if_its_orders_disagree() -> None:
    _, verdicts = simulate(50, 1.0)
    same, other = verdict("same", 4, 4), verdict("other", 8, 0)
    bounds = shrunk_gaps([*verdicts, same, other], 1.0, shrink=False)
    assert bounds["other"] < bounds["same"] < 4


def test_shrunk_gaps_without_enough_rows_are_the_gaps() -> None:
    assert shrunk_gaps([verdict("a", 4, 2)], 1.0, shrink=True) == {"a": 3.0}
    assert estimate_noise([]) is None
