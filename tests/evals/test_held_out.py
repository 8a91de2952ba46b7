"""What a student gained on instructions kept out of training, from verdicts and losses."""

import math

import pytest

from tapir_exp.core.records import ResponseLoss, Verdict
from tapir_exp.evals.held_out import head_to_head, loss_change, perplexity, preferences


def verdict(row: str, before: float | None, after: float | None) -> Verdict:
    return Verdict(id=row, replies=(), teacher=before, student=after)


def loss(row: str, nats: float | None, tokens: int = 10) -> ResponseLoss:
    return ResponseLoss(id=row, instructed=nats, alone=None, tokens=tokens)


def test_a_preference_is_of_the_later_student() -> None:
    assert preferences([verdict("a", 1, 10), verdict("b", 10, 1), verdict("c", 5.5, 5.5)]) == [1.0, 0.0, 0.5]


def test_a_duel_counts_and_gives_an_interval() -> None:
    rows = [
        verdict("a", 1, 10),
        verdict("b", 1, 10),
        verdict("c", 5.5, 5.5),
        verdict("d", 10, 1),
        verdict("e", None, None),
    ]
    fought = head_to_head(rows)
    assert (fought.won, fought.tied, fought.lost, fought.unscored) == (2, 1, 1, 1)
    assert fought.win_rate is not None
    assert fought.win_rate.mean == 0.625
    assert fought.win_rate.n == 4
    # s = 0.4787, t(3) = 3.1824: 0.625 +- 0.7618
    assert fought.win_rate.low == pytest.approx(-0.1368, abs=1e-3)


def test_a_duel_without_verdicts_says_so() -> None:
    fought = head_to_head([verdict("a", None, None)])
    assert fought.win_rate is None
    assert fought.unscored == 1


def test_perplexity_weighs_every_token_the_same() -> None:
    assert perplexity([loss("a", 1.0, 30), loss("b", 2.0, 10), loss("c", None)]) == pytest.approx(math.exp(1.25))
    assert perplexity([loss("a", None)]) is None


def test_the_change_of_the_loss_is_paired_by_row() -> None:
    change = loss_change(
        [loss("a", 2.0), loss("b", 4.0), loss("x", None)], [loss("b", 3.0), loss("a", 1.5), loss("x", 1.0)]
    )
    assert change is not None
    assert change.mean == -0.75
    assert change.n == 2
    assert loss_change([], [loss("a", 1.0)]) is None


def test_the_change_of_the_loss_is_told_of_any_number_of_rows() -> None:
    rows = [str(row) for row in range(200)]
    change = loss_change([loss(row, 2.0) for row in rows], [loss(row, 1.5) for row in rows])
    assert change is not None
    assert (change.mean, change.low, change.high, change.n) == (-0.5, -0.5, -0.5, 200)
