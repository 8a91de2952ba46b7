"""Expected scores: the mean of a judge's scores, weighted by the probabilities of their tokens (as in G-Eval).

A weak judge gives most answers the same score, but its probabilities differ. Scores are single digits from 1 to 9,
which are one token under every tokenizer. A 10 is one token under some, and two under others. The mean e is stretched
to the scale of the other protocols: 1 + 9 (e - 1) / 8, from 1 to 10.
"""

import re
from collections.abc import Sequence
from math import exp

from tapir_exp.core.errors import ReplyError
from tapir_exp.llm.chat import Completion, TokenLogprob

POSITIONS = 8
"""Tokens of a completion that are searched for scores."""
MIN_MASS = 0.5
"""Least probability of all digits together at the token of a score."""
MAX_UNSEEN = 0.1
"""Most probability, relative to the digits, that unreported digits may have together."""
ROUNDING = 1e-3
"""Tolerance for reported probabilities that sum to more than 1."""
DIGITS = "123456789"


def parse_expected_score(completion: Completion) -> tuple[float, ...]:
    """Return the expected score of a completion about one response.

    Raises:
        ReplyError: If it is no single digit, or its log-probabilities do not determine the score.
    """
    return _expected(completion, 1, "one digit from 1 to 9")


def parse_expected_scores(completion: Completion) -> tuple[float, ...]:
    """Return the expected scores of a completion about a pair; the second one is given the first digit of the reply.

    Raises:
        ReplyError: If it is no two digits, or its log-probabilities do not determine the scores.
    """
    return _expected(completion, 2, "two digits from 1 to 9, separated by one space,")


def _expected(completion: Completion, count: int, form: str) -> tuple[float, ...]:
    text = completion.text.strip()
    if re.match(r"[1-9]" + r"[ ,]+[1-9]" * (count - 1) + r"(?:\s*\n|\s*$)", text) is None:
        raise ReplyError(f"It must be {form} and nothing else, but it is {text[:80]!r}.")
    if not completion.top_logprobs:
        raise ReplyError(
            "It came without log-probabilities, from which this protocol computes the score. Choose an endpoint that "
            "reports them, or judge.protocol=pair_scores or single_score, which need none."
        )
    scores: list[float] = []
    for candidates in completion.top_logprobs[:POSITIONS]:
        digits = _digit_probabilities(candidates)
        # Another token, such as a space.
        if sum(digits.values()) < MIN_MASS:
            continue
        scores.append(1 + 9 * (_mean_digit(digits, candidates) - 1) / 8)
        if len(scores) == count:
            return tuple(scores)
    raise ReplyError(
        f"Only {len(scores)} of {count} scores is a digit with a probability of at least {MIN_MASS}; reply with {form} "
        "and nothing else."
    )


def _digit_probabilities(candidates: Sequence[TokenLogprob]) -> dict[str, float]:
    """Return the probability of each reported digit; spaces around it do not matter."""
    probabilities = [exp(min(token.logprob, 1.0)) for token in candidates]
    # Written as `not <=`, so that it also rejects NaN.
    if not sum(probabilities) <= 1 + ROUNDING:
        raise ReplyError("The log-probabilities of a token are none: they add up to more than 1.")
    found: dict[str, float] = {}
    for token, probability in zip(candidates, probabilities, strict=True):
        # Tokenizers mark a leading space with these characters.
        text = token.token.strip(" \n\t▁Ġ")
        if len(text) == 1 and text in DIGITS:
            found[text] = found.get(text, 0.0) + probability
    return found


def _mean_digit(digits: dict[str, float], candidates: Sequence[TokenLogprob]) -> float:
    mass = sum(digits.values())
    reported = [exp(min(token.logprob, 1.0)) for token in candidates]
    # A digit that was not reported is at most as probable as the least probable reported token.
    unseen = min((len(DIGITS) - len(digits)) * min(reported), max(0.0, 1 - sum(reported)))
    if unseen / mass > MAX_UNSEEN:
        raise ReplyError(
            f"Digits that were not reported may have a probability of {unseen:.2f} together; raise judge.top_logprobs "
            f"({len(candidates)} tokens were reported), or choose a judge that is surer."
        )
    return sum(int(digit) * probability for digit, probability in digits.items()) / mass
