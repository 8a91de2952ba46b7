"""Replies of real judges: the parsed scores against those of the official parser, checked by hand."""

import json

import pytest
from assets import asset
from fakes import completion_of

from tapir_exp.core.errors import ReplyError
from tapir_exp.distillation.judge.parse import parse_pair_scores

READABLE = 296
"""Of 300: 281 as asked, and 15 in prose or with labels. Of the rest, one refuses and three give 0 on a scale from 1."""


def test_parse_pair_scores_of_real_replies_are_never_wrong() -> None:
    rows = [json.loads(line) for line in asset("judge_replies/pair_scores_300.jsonl").read_text().splitlines()]
    readable = 0
    for row in rows:
        try:
            scores = parse_pair_scores(completion_of(row["reply"]))
        except ReplyError:
            continue
        assert scores == pytest.approx(row["official"]), row["question_id"]
        readable += 1
    assert (readable, len(rows)) == (READABLE, 300)
