"""Replies of real judges, read beside the scores that the official parser and a person gave them."""

import json

import pytest
from assets import asset
from fakes import reply_of

from tapir_exp.core.errors import ReplyError
from tapir_exp.distillation.judge.parse import parse_pair_scores

RIGHT = 281
"""Of 300; 16 of the others hide their scores in prose, three give 0 on a scale from 1."""


def test_no_real_reply_becomes_a_wrong_number() -> None:
    rows = [json.loads(line) for line in asset("judge_replies/pair_scores_300.jsonl").read_text().splitlines()]
    right = 0
    for row in rows:
        try:
            scores = parse_pair_scores(reply_of(row["reply"]))
        except ReplyError:
            continue
        assert scores == pytest.approx(row["official"]), row["question_id"]
        right += 1
    assert (right, len(rows)) == (RIGHT, 300)
