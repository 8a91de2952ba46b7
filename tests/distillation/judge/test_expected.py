"""Expected scores: the mean over digits by their probability, at the tokens that hold a score, or an error."""

from math import log

import pytest
from fakes import completion_of

from tapir_exp.core.errors import ReplyError
from tapir_exp.distillation.judge.expected import POSITIONS, parse_expected_score, parse_expected_scores
from tapir_exp.llm.chat import Completion, TokenLogprob


def replied(text: str, *positions: dict[str, float]) -> Completion:
    """Return a completion with the probability of each candidate, by position."""
    top = tuple(
        tuple(TokenLogprob(token=token, logprob=log(value)) for token, value in tokens.items()) for tokens in positions
    )
    return completion_of(text).model_copy(update={"top_logprobs": top})


def test_expected_score_is_the_mean_stretched_to_ten() -> None:
    assert parse_expected_score(replied("9", {"9": 1.0})) == (10,)
    assert parse_expected_score(replied("1", {"1": 1.0})) == (1,)
    # Digits 5 and 6 at 3 to 1: the mean is 5.25.
    (score,) = parse_expected_score(replied("5", {"5": 0.6, "6": 0.2, "Well": 0.1, "\n": 0.1}))
    assert score == pytest.approx(1 + 9 * (5.25 - 1) / 8)


def test_expected_score_of_equal_digits_differs_by_their_probabilities() -> None:
    """Both replies are a 7; the argmax would be a tie."""
    sure, unsure = (parse_expected_score(replied("7", {"7": share, "3": 1 - share}))[0] for share in (0.9, 0.6))
    assert sure > unsure


@pytest.mark.parametrize(
    "positions",
    [
        [{"8": 1.0}, {" ": 1.0}, {"4": 1.0}],
        [{"8": 1.0}, {" 4": 1.0}],
        [{"▁": 1.0}, {"8": 1.0}, {"▁4": 1.0}],
        [{"\n": 1.0}, {"8": 1.0}, {",": 0.7, " ": 0.3}, {"Ġ4": 1.0}],
    ],
)
def test_expected_scores_are_found_under_any_tokenizer(positions: list[dict[str, float]]) -> None:
    assert parse_expected_scores(replied("8 4", *positions)) == pytest.approx((1 + 9 * 7 / 8, 1 + 9 * 3 / 8))


@pytest.mark.parametrize(
    ("completion", "message"),
    [
        (replied("The answer is 7.", {"7": 1.0}), "must be one digit from 1 to 9"),
        (replied("10", {"10": 1.0}), "must be one digit from 1 to 9"),
        (replied("0", {"0": 1.0}), "must be one digit from 1 to 9"),
        (replied("7/9", {"7": 1.0}), "must be one digit from 1 to 9"),
        (completion_of("7"), "endpoint that reports them, or judge.protocol=pair_scores"),
        (replied("7", {"Seven": 0.6, "7": 0.4}), "Only 0 of 1 scores is a digit"),
        (replied("7", *[{" ": 1.0}] * POSITIONS, {"7": 1.0}), "Only 0 of 1 scores is a digit"),
        (replied("7", {"7": 0.9, "6": 0.9}), "add up to more than 1"),
    ],
)
def test_expected_score_that_is_not_determined_is_refused(completion: Completion, message: str) -> None:
    with pytest.raises(ReplyError, match=message):
        parse_expected_score(completion)


def test_expected_score_needs_enough_reported_tokens() -> None:
    """Two tokens of an unsure judge: seven digits may be nearly as probable as the second one."""
    with pytest.raises(ReplyError, match=r"raise judge.top_logprobs \(2 tokens were reported\)"):
        parse_expected_score(replied("7", {"7": 0.4, "6": 0.3}))
    # What is left of the probability bounds the unreported digits, too.
    assert parse_expected_score(replied("7", {"7": 0.7, "6": 0.29}))


@pytest.mark.parametrize("text", ["8", "8 4 2", "8 and 4", "84"])
def test_expected_scores_of_another_count_are_refused(text: str) -> None:
    with pytest.raises(ReplyError, match="must be two digits from 1 to 9"):
        parse_expected_scores(replied(text, {"8": 1.0}, {"4": 1.0}))
