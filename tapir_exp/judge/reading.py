"""How replies of the judge are read: exactly what was asked for, or not at all.

A score is written in ASCII digits, from 1 to 10; a decimal point with digits on both sides is legal (judges do
write 8.5), a decimal comma is not, for it may as well separate two scores. Scores stand alone on the first line. A
later line that states other scores makes the reply ambiguous, and it is refused: one of the two may be quoted.
"""

import re
from collections.abc import Callable, Mapping
from math import exp

from tapir_exp.config import JudgeProtocol
from tapir_exp.errors import ReplyError
from tapir_exp.llm.chat import Reply, TokenLogprob

READER = 1
"""Version of these rules, part of the key of every verdict: raise it with them, and kept replies are read anew."""
LOWEST, HIGHEST = 1.0, 10.0
LEAST_MASS = 0.5
"""Probability that the two digits of a preference must have together; below, the judge would say something else."""
FINEST = 0.01
"""Preferences that are surer than this about a digit too unlikely to be reported take its probability for 0."""
ROUNDING = 1e-3
"""By how much reported probabilities may add up to more than 1."""
_NUMBER = r"((?:0|[1-9][0-9]*)(?:\.[0-9]+)?)"
_WORD = r"(?:my|the|final|overall|revised|corrected|adjusted|actual|true|total|scores?|ratings?|grades?|are|is)"
_OUT_OF = r"(?:\s*/\s*10)?"
_COUNTS = {1: "one score", 2: "two scores"}

Scores = tuple[float, ...]
"""One score for each answer shown, in the order shown."""


def read_scores(reply: Reply) -> Scores:
    """The two scores of a pairwise reply. Raises ReplyError where it holds anything but what was asked."""
    return _read_numbers(reply, 2)


def read_score(reply: Reply) -> Scores:
    """The score of a reply about one thing. Raises ReplyError where it holds anything but what was asked."""
    return _read_numbers(reply, 1)


def read_preference(reply: Reply) -> Scores:
    """A preference by the log-probabilities of the first token, as two scores from 1 to 10 that sum to 11.

    With p = P(1) / (P(1) + P(2)), the scores are 1 + 9 p and 10 - 9 p, so the gap of first and second is
    9 (2 p - 1), from -9 to 9: how sure the judge is, not how much better an answer is.
    Raises ReplyError where the reply is no digit of the two, or its log-probabilities do not tell p.
    """
    if reply.text.strip() not in ("1", "2"):
        raise ReplyError(f"It must be the digit 1 or the digit 2 and nothing else, but it is {reply.text[:80]!r}.")
    if not reply.top_logprobs:
        raise ReplyError("It came without log-probabilities, which this protocol reads; the endpoint must report them.")
    share = _share_of_first(reply.top_logprobs[0])
    return (LOWEST + 9 * share, HIGHEST - 9 * share)


READERS: Mapping[JudgeProtocol, Callable[[Reply], Scores]] = {
    JudgeProtocol.pair_scores: read_scores,
    JudgeProtocol.single_score: read_score,
    JudgeProtocol.pair_logprobs: read_preference,
}
"""How a reply is read under each protocol."""


def _read_numbers(reply: Reply, count: int) -> Scores:
    first_line, _, reasons = (part.strip() for part in reply.text.strip().partition("\n"))
    if reply.finish_reason == "length" and not reasons:
        raise ReplyError("It was cut at the length limit before the scores were surely whole; write them first.")
    found = re.fullmatch(" +".join([_NUMBER] * count), first_line)
    if found is None:
        raise ReplyError(f"The first line must hold {_COUNTS[count]} and nothing else, but it is {first_line[:80]!r}.")
    scores = tuple(float(number) for number in found.groups())
    if not all(LOWEST <= score <= HIGHEST for score in scores):
        raise ReplyError(f"Scores go from 1 to 10, but the first line is {first_line!r}.")
    _refuse_rivals(scores, reasons)
    return scores


def _refuse_rivals(scores: Scores, reasons: str) -> None:
    """Raises ReplyError where a later line states other scores than the first."""
    between = rf"{_OUT_OF}(?:[ \t]*[,;|&/][ \t]*|[ \t]+)(?:and[ \t]+)?"
    stated = re.compile(rf"[\W_]*(?:{_WORD}[\W_]+)*{between.join([_NUMBER] * len(scores))}{_OUT_OF}[\W_]*", re.I)
    for line in reasons.splitlines():
        rival = stated.fullmatch(line)
        if rival is not None and tuple(float(number) for number in rival.groups()) != scores:
            raise ReplyError(f"It states scores more than once, and the line {line.strip()[:80]!r} states others.")


def _share_of_first(tokens: tuple[TokenLogprob, ...]) -> float:
    """P(1) / (P(1) + P(2)) from the likeliest first tokens; a token counts however it is spaced."""
    chances = [exp(min(token.logprob, 1.0)) for token in tokens]
    if not sum(chances) <= 1 + ROUNDING:  # nor is it where one is not a number
        raise ReplyError("The log-probabilities of its first token are none: they add up to more than 1.")
    pairs = list(zip((token.token.strip(" \n\t▁Ġ") for token in tokens), chances, strict=True))
    one, two = (sum(chance for text, chance in pairs if text == digit) for digit in "12")
    if one + two < LEAST_MASS:
        raise ReplyError(f"Its first token is 1 or 2 with a probability of only {one + two:.2f}; reply with the digit.")
    unseen = 0.0 if one and two else min(chances)
    if unseen / (one + two) > FINEST:
        raise ReplyError("One of the digits is not among the reported tokens, though it may be likely; report more.")
    return one / (one + two)
