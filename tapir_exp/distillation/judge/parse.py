"""How replies of the judge are read: exactly what was asked for, or not at all.

A score is written in ASCII digits, from 1 to 10; a decimal point with digits on both sides is legal (judges do
write 8.5), a decimal comma is not, for it may as well separate two scores. Scores stand alone on the first line. Where
the reasons state others (on a line of their own, as "7/10", as "a score of 7"), the reply is refused: one of the two is
quoted, or withdrawn, and a reader cannot know which. What no reader can see through is a reply that opens with a copy
of somebody's scores, bare and on a line of their own, and states its own in none of these forms.
"""

import re
from collections.abc import Callable, Mapping
from math import exp

from tapir_exp.config import JudgeProtocol
from tapir_exp.core.errors import ReplyError
from tapir_exp.llm.chat import Completion, TokenLogprob

PARSER_VERSION = 1
"""Version of these rules, part of the key of every verdict: raise it with them, and kept replies are read anew."""
LOWEST, HIGHEST = 1.0, 10.0
LEAST_MASS = 0.5
"""Probability that the two digits of a preference must have together; below, the judge would say something else."""
FINEST = 0.01
"""Preferences that are surer than this about a digit too unlikely to be reported take its probability for 0."""
ROUNDING = 1e-3
"""By how much reported probabilities may add up to more than 1."""
_NUMBER = r"((?:0|[1-9][0-9]*)(?:\.[0-9]+)?)"
_ENDS = r"(?!\w|\.[0-9])"
_WORD = r"(?:my|the|final|overall|revised|corrected|adjusted|actual|true|total|scores?|ratings?|grades?|are|is)"
_ONE_STATED = (
    re.compile(rf"(?<![\w.]){_NUMBER} ?(?:/|out of) ?10{_ENDS}", re.IGNORECASE),
    re.compile(rf"\b(?:score|rating|grade) of {_NUMBER}{_ENDS}", re.IGNORECASE),
)
"""How a reason states the score of one answer."""
_ALL_STATED = {
    1: (re.compile(rf"^[\W_]*(?:{_WORD}[\W_]+)*{_NUMBER}[^\w\n]*$", re.IGNORECASE | re.MULTILINE),),
    2: (
        re.compile(rf"^[\W_]*(?:{_WORD}[\W_]+)*{_NUMBER}[\W_]+(?:and[\W_]+)?{_NUMBER}[^\w\n]*$", re.I | re.MULTILINE),
        re.compile(rf"(?<![\w.]){_NUMBER} +{_NUMBER}{_ENDS}"),
    ),
}
"""How a reason states all scores at once: on a line of their own, or a pair anywhere."""
_COUNTS = {1: "one score", 2: "two scores"}

Scores = tuple[float, ...]
"""One score for each answer shown, in the order shown."""


def parse_pair_scores(reply: Completion) -> Scores:
    """The two scores of a pairwise reply. Raises ReplyError where it holds anything but what was asked."""
    return _read_numbers(reply, 2)


def parse_single_score(reply: Completion) -> Scores:
    """The score of a reply about one thing. Raises ReplyError where it holds anything but what was asked."""
    return _read_numbers(reply, 1)


def parse_preference(reply: Completion) -> Scores:
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


PARSERS: Mapping[JudgeProtocol, Callable[[Completion], Scores]] = {
    JudgeProtocol.pair_scores: parse_pair_scores,
    JudgeProtocol.single_score: parse_single_score,
    JudgeProtocol.pair_logprobs: parse_preference,
}
"""How a reply is read under each protocol."""


def _read_numbers(reply: Completion, count: int) -> Scores:
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
    """Raises ReplyError where the reasons state a score that the first line does not hold."""
    singles = [found for form in _ONE_STATED for found in form.finditer(reasons) if float(found[1]) not in scores]
    wholes = [
        found
        for form in _ALL_STATED[len(scores)]
        for found in form.finditer(reasons)
        if tuple(map(float, found.groups())) != scores
    ]
    for rival in (*singles, *wholes):
        raise ReplyError(f"It states scores more than once, and {rival[0].strip()[:80]!r} differs from the first line.")


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
