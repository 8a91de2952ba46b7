"""Comparison of a student with its predecessor on held-out instructions, from verdicts and losses."""

import math

import pytest

from tapir_exp.core.records import ResponseLoss, Verdict
from tapir_exp.evals.held_out import head_to_head, loss_change, perplexity, preferences


def verdict(row_id: str, before: float | None, after: float | None) -> Verdict:
    return Verdict(id=row_id, replies=(), teacher=before, student=after)


def loss(row_id: str, nats: float | None, tokens: int = 10) -> ResponseLoss:
    return ResponseLoss(id=row_id, instructed=nats, alone=None, tokens=tokens)


def test_preferences_favour_the_later_student() -> None:
    assert preferences([verdict("a", 1, 10), verdict("b", 10, 1), verdict("c", 5.5, 5.5)]) == [1.0, 0.0, 0.5]


def test_head_to_head_counts_and_gives_an_interval() -> None:
    rows = [
        verdict("a", 1, 10),
        verdict("b", 1, 10),
        verdict("c", 5.5, 5.5),
        verdict("d", 10, 1),
        verdict("e", None, None),
    ]
    result = head_to_head(rows)
    assert (result.won, result.tied, result.lost, result.unscored) == (2, 1, 1, 1)
    assert result.win_rate is not None
    assert result.win_rate.mean == 0.625
    assert result.win_rate.n == 4
    # s = 0.4787, t(3) = 3.1824: 0.625 +- 0.7618
    assert result.win_rate.low == pytest.approx(-0.1368, abs=1e-3)


def test_head_to_head_without_scores_has_no_win_rate() -> None:
    result = head_to_head([verdict("a", None, None)])
    assert result.win_rate is None
    assert result.unscored == 1


def test_perplexity_weights_all_tokens_equally() -> None:
    assert perplexity([loss("a", 1.0, 30), loss("b", 2.0, 10), loss("c", None)]) == pytest.approx(math.exp(1.25))
    assert perplexity([loss("a", None)]) is None


def test_loss_change_is_paired_by_row() -> None:
    change = loss_change(
        [loss("a", 2.0), loss("b", 4.0), loss("x", None)], [loss("b", 3.0), loss("a", 1.5), loss("x", 1.0)]
    )
    assert change is not None
    assert change.mean == -0.75
    assert change.n == 2
    assert loss_change([], [loss("a", 1.0)]) is None


def test_loss_change_has_an_interval_for_many_rows() -> None:
    row_ids = [str(number) for number in range(200)]
    change = loss_change([loss(row_id, 2.0) for row_id in row_ids], [loss(row_id, 1.5) for row_id in row_ids])
    assert change is not None
    assert (change.mean, change.low, change.high, change.n) == (-0.5, -0.5, -0.5, 200)
