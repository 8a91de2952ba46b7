"""Completions are parsed: the scores that all their statements agree on, or an error; never a wrong number."""

import re
from math import log

import pytest
from fakes import completion_of
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.core.errors import ReplyError
from tapir_exp.distillation.judge.parse import (
    MAX_UNSEEN,
    MIN_MASS,
    parse_pair_scores,
    parse_preference,
    parse_single_score,
)
from tapir_exp.llm.chat import Completion, TokenLogprob


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("9 4", (9, 4)),
        ("8.5 9", (8.5, 9)),
        ("1 10", (1, 10)),
        ("10 10\nBoth are fine.", (10, 10)),
        ("  7   3  \r\nWhy: 12", (7, 3)),
        ("\n\n6 5", (6, 5)),
        ("9.25 1.0\n[[10]]", (9.25, 1)),
    ],
)
def test_pair_scores_on_the_first_line_are_parsed(text: str, scores: tuple[float, float]) -> None:
    assert parse_pair_scores(completion_of(text)) == scores


@pytest.mark.parametrize(
    "text",
    [
        "On a scale of 1 to 10, I would say 8 and 6.",
        "On a scale from 1 10",
        "I give 8 6",
        "8 6 because",
        "8 9 7",
        "8",
        "8 / 9",
        "-1 5",
        "5 -1",
        "8.5. 9",
        "8. 9",
        ".5 9",
        "8,5 9",
        "1e1 5",
        "nan 5",
        "inf 5",
        "[[10]]",
        "'8 6'",
        "eight six",
        "1٠ 5",
        "> 8 6\nThat is what it says.",
        "Assistant 2 ends with:\n8 6",
        'Assistant 2 wrote {"assistant_1": 8, "assistant_2": 6}',
        "Both programs print\n8 6",
        "I would not give them 8/10 and 6/10.",
        "# 8 6",
        "8/10",
        "8 or 9, 6 or 7",
        "80% 60%",
        "Assistant 1: 4/5\nAssistant 2: 3/5",
        "Assistant 1: 8 of 9 steps\nAssistant 2: 6 of 9 steps",
        "Assistant 1: 0\nAssistant 2: 9",
        "<think>\n8 6",
        "`It says`\n8 6\nand more",
        "8/10 6/10\n6/10 and 8/10 are fair.",
        "Assistant 1: 8\nAssistant 2: 6\nOn reflection, Assistant 1: 5",
        "| Assistant 2 | Assistant 1 |\n|---|---|\n| 8 | 6 |",
        "Scores (Assistant 2, Assistant 1):\n8 6",
        '{"assistant_1": 8, "assistant_1": 3, "assistant_2": 6}',
        "It demands 10/10 and 9/10.",
        "08 6",
        "",
        " \n ",
    ],
)
def test_pair_scores_other_first_line_is_rejected_and_quoted(text: str) -> None:
    first_line = text.strip().partition("\n")[0]
    with pytest.raises(ReplyError, match=re.escape(f"two scores and nothing else, but it is {first_line!r}")):
        parse_pair_scores(completion_of(text))


@pytest.mark.parametrize(
    "text",
    [
        "8, 6",
        "**8 6**",
        "8\t6",
        "8 and 6",
        "8/10 6/10",
        "(8, 6)",
        "[[8]] [[6]]",
        "8\n6",
        "\ufeff8 6",
        "８ ６",
        "The scores are:\n8 6\nBoth are fine.",
        "Assistant 1: 8\nAssistant 2: 6",
        "**Assistant 1:** 8/10 - it takes 3 of 4 steps\n**Assistant 2:** 6/10",
        "Score for Assistant 1: 8. Score for Assistant 2: 6.",
        "## Assistant 1\nGood.\nScore: 8/10\n\n## Assistant 2\nShort.\nScore: 6/10",
        "| Assistant 1 | Assistant 2 |\n|---|---|\n| 8 | 6 |\n\nBoth are fine.",
        "I would rate Assistant 1's code an 8 out of 10 and Assistant 2's code a 6 out of 10.",
        "Assistants 2 and 1 receive 6 and 8, respectively.",
        "x = 10/2 = 5. The first passes 7 of 9 tests.\nFinal scores: 8 6",
        '```json\n{"assistant_1": 8, "assistant_2": 6, "reason": "3 of 4 steps"}\n```',
        '{"assistant_1": {"score": 8, "words": 90}, "assistant_2": {"score": "6/10", "words": 40}}',
        "{'scores': [8, 6]}",
        "<think>\nPerhaps 7 7?\n</think>\n\n8 6\nBoth are fine.",
    ],
)
def test_pair_scores_other_readable_form_is_parsed(text: str) -> None:
    assert parse_pair_scores(completion_of(text)) == (8, 6)


@pytest.mark.parametrize("text", ["95 3", "11 2", "0 5", "5 0", "5 0.99", "10.01 9", "85 60", "5 100"])
def test_pair_scores_beyond_the_scale_are_rejected_and_quoted(text: str) -> None:
    with pytest.raises(ReplyError, match=f"from 1 to 10, but the first line is '{re.escape(text)}'"):
        parse_pair_scores(completion_of(text))


@pytest.mark.parametrize("text", ["8 1", "10 1", "8 6 ", "8 6\n", "\n8 6\n \n", "8", "Well, 8 6", ""])
def test_pair_scores_cut_on_the_first_line_are_rejected(text: str) -> None:
    with pytest.raises(ReplyError, match="cut at the length limit"):  # `8 1` may be the first half of `8 10`
        parse_pair_scores(completion_of(text, finish_reason="length"))


def test_pair_scores_cut_among_the_reasons_are_parsed() -> None:
    assert parse_pair_scores(completion_of("8 6\nBecause the fir", finish_reason="length")) == (8, 6)


@pytest.mark.parametrize("text", ["Let me see.\n8 6", "Assistant 1: 8\nAssistant 2: 1", "Scores: 8 1\n"])
def test_pair_scores_cut_before_they_are_surely_whole_fail(text: str) -> None:
    with pytest.raises(ReplyError, match=r"two scores and nothing else|cut at the length limit"):
        parse_pair_scores(completion_of(text, finish_reason="length"))


def test_pair_scores_labelled_and_cut_among_the_reasons_are_parsed() -> None:
    text = "Assistant 1: 8\nAssistant 2: 6\nBecause the fir"
    assert parse_pair_scores(completion_of(text, finish_reason="length")) == (8, 6)


@given(first=st.floats(1, 10), second=st.floats(1, 10), reason=st.text())
def test_pair_scores_on_the_scale_are_returned(first: float, second: float, reason: str) -> None:
    first, second = round(first, 3), round(second, 3)
    assert parse_pair_scores(completion_of(f"{first} {second}\n{reason}")) == (first, second)


@given(text=st.text())
def test_pair_scores_any_text_is_scores_or_an_error(text: str) -> None:
    try:
        scores = parse_pair_scores(completion_of(text))
    except ReplyError:
        return
    assert 1 <= min(scores) <= max(scores) <= 10


@pytest.mark.parametrize(
    "reasons",
    [
        "7 9",
        "Final scores: 7 9",
        "**My revised scores are 7, 9**",
        "[[7]] [[9]]",
        "7/9",
        "Wait, that was its own text. I would say 7 9 instead.",
        "Assistant 1 earns 7/10 and assistant 2 earns 9/10.",
        "Assistant 1: 7 out of 10.",
        "The second deserves a score of 9.",
        "Assistant 1: 6\nAssistant 2: 8",
        "I give the second 8/10 and the first 6/10.",
        "6/10 and 8/10 are fair.",
        "One of them deserves 6/10. The other one deserves 8/10.",
        "Assistant 1's score: 6",
        '{"assistant_1": 6, "assistant_2": 8}',
    ],
)
def test_pair_scores_with_other_scores_in_reasons_are_rejected(reasons: str) -> None:
    with pytest.raises(ReplyError, match="states scores more than once"):
        parse_pair_scores(completion_of(f"8 6\nLet me explain.\n{reasons}\nThat is all."))


@pytest.mark.parametrize(
    "reasons",
    [
        "8 6",
        "Scores: 8, 6.",
        "Assistant 1 earns 8/10, the other one 6 out of 10: a score of 6.",
        "It took 3 steps of 4.5 minutes.",
        "f(2) = 5(2)^3 - 2(2) + 3 = 39",
        "    a, b = 0, 1",
        "[[10]] is what assistant 2 wrote.",
        "1. It is right.\n2. It is short.",
    ],
)
def test_pair_scores_with_same_scores_in_reasons_are_parsed(reasons: str) -> None:
    assert parse_pair_scores(completion_of(f"8 6\n{reasons}")) == (8, 6)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("7", 7),
        ("8.5\nGood.", 8.5),
        (" 10 \n\nScore: 10", 10),
        ("3\n3/10", 3),
        ("[[7]]", 7),
        ("7/10", 7),
        ("Score: 7\nIt takes 3 of 4 steps.", 7),
        ("It is right.\n\n**Rating:** 7/10", 7),
        ('{"score": 7, "reason": "2 of 3"}', 7),
        ("The answer deserves a 7.", 7),
        ("<think>8?</think>7", 7),
    ],
)
def test_single_score_on_the_first_line_is_parsed(text: str, score: float) -> None:
    assert parse_single_score(completion_of(text)) == (score,)


@pytest.mark.parametrize(
    "text",
    ["7 8", "7-8", "7 or 8", "-1", "8,5", "seven", "0", "11", "70%", "7/8", "Score: 7\nScore: 8", "", "I cannot rate."],
)
def test_single_score_other_text_is_rejected(text: str) -> None:
    with pytest.raises(ReplyError, match=r"one score and nothing else|from 1 to 10"):
        parse_single_score(completion_of(text))


@pytest.mark.parametrize("text", ["10\n[[3]]", "10\nThat was a quotation.\n3", "10\nI give it 3/10.", "10\nRating: 3"])
def test_single_score_with_a_later_other_score_is_rejected(text: str) -> None:
    with pytest.raises(ReplyError, match="states scores more than once"):
        parse_single_score(completion_of(text))


def preferring(text: str, *tokens: tuple[str, float]) -> Completion:
    """Return a completion with these probabilities of the first token."""
    top = tuple(TokenLogprob(token=token, logprob=log(probability)) for token, probability in tokens)
    return completion_of(text).model_copy(update={"top_logprobs": (top,)})


@pytest.mark.parametrize(
    ("tokens", "scores"),
    [
        ([("1", 0.5), ("2", 0.5)], (5.5, 5.5)),
        ([("1", 0.75), ("2", 0.25)], (7.75, 3.25)),
        ([("1", 0.3), ("2", 0.3), ("Assistant", 0.4)], (5.5, 5.5)),
        ([("1", 0.4), (" 1", 0.2), ("▁2", 0.1), ("\n2", 0.1), ("The", 0.2)], (1 + 9 * 0.75, 10 - 9 * 0.75)),
        ([("1", 0.999), ("The", 0.001)], (10, 1)),
        ([("2", 1.0)], (1, 10)),
    ],
)
def test_preference_is_mapped_to_the_scale(tokens: list[tuple[str, float]], scores: tuple[float, float]) -> None:
    text = "1" if scores[0] >= scores[1] else "2"
    if tokens == [("2", 1.0)]:
        tokens = [("2", 0.9999), ("x", 0.0001)]
    parsed = parse_preference(preferring(text, *tokens))
    assert parsed == pytest.approx(scores)
    assert sum(parsed) == pytest.approx(11)


@pytest.mark.parametrize("text", ["A", "3", "12", "1.", "1 because", "[[1]]", "Assistant 1", "one", ""])
def test_preference_other_text_is_rejected(text: str) -> None:
    with pytest.raises(ReplyError, match="the digit 1 or the digit 2 and nothing else"):
        parse_preference(preferring(text, ("1", 0.9), ("2", 0.1)))


def test_preference_without_log_probabilities_is_rejected() -> None:
    with pytest.raises(ReplyError, match="without log-probabilities"):
        parse_preference(completion_of("1"))


@pytest.mark.parametrize("mass", [0.0, 0.1, MIN_MASS - 0.01])
def test_preference_with_too_little_mass_is_rejected(mass: float) -> None:
    with pytest.raises(ReplyError, match=f"probability of only {mass:.2f}"):
        parse_preference(preferring("1", *([("1", mass)] if mass else []), ("The", 0.4)))


def test_preference_with_a_likely_unseen_digit_is_rejected() -> None:
    with pytest.raises(ReplyError, match="not among the reported tokens"):
        parse_preference(preferring("1", ("1", 0.8), ("The", 2 * MAX_UNSEEN)))


@pytest.mark.parametrize("logprob", [float("nan"), float("inf"), 3.0, 1e9])
def test_preference_invalid_log_probabilities_are_rejected(logprob: float) -> None:
    top = (TokenLogprob(token="1", logprob=logprob), TokenLogprob(token="2", logprob=-1.0))
    with pytest.raises(ReplyError, match="add up to more than 1"):
        parse_preference(completion_of("1").model_copy(update={"top_logprobs": (top,)}))


def test_preference_impossible_digit_counts_as_zero() -> None:
    top = (TokenLogprob(token="1", logprob=0.0), TokenLogprob(token="2", logprob=float("-inf")))
    assert parse_preference(completion_of("1").model_copy(update={"top_logprobs": (top,)})) == (10, 1)
