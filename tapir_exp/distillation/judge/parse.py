"""Parse the judge's completions: the scores that all statements of a completion agree on, or an error.

A score lies between 1 and 10. A decimal point with digits on both sides is allowed, since judges write 8.5. A decimal
comma is not, since it may separate two scores.

The prompt asks for scores alone on the first line. Judges also write labels, JSON, tuples, "8/10", bold text, or
thoughts first; `statements.py` finds these forms. If two statements of a completion disagree, it is rejected: one of
them is quoted or withdrawn, and the parser cannot detect which.

Known limitation: a completion that starts with copied scores and never restates its own cannot be detected.

The texts of ReplyError are sent back to the judge, so they are part of the cache keys of paid completions.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from math import exp

from tapir_exp.config import JudgeProtocol
from tapir_exp.core.errors import ReplyError
from tapir_exp.distillation.judge.expected import parse_expected_score, parse_expected_scores
from tapir_exp.distillation.judge.json_statements import find_json_statements
from tapir_exp.distillation.judge.statements import Loose, Statement, clean_text, find_statements
from tapir_exp.llm.chat import Completion, TokenLogprob
from tapir_exp.llm.thoughts import split_thoughts

PARSER_VERSION = 2
"""Version of these rules, part of the key of every verdict; a change of the rules needs a new version."""
LOWEST, HIGHEST = 1.0, 10.0
MIN_MASS = 0.5
"""Minimum probability of the two digits of a preference together; below, the judge prefers another reply."""
MAX_UNSEEN = 0.01
"""Maximum probability, relative to the digits, that a digit without a reported log-probability can have."""
ROUNDING = 1e-3
"""Tolerance for reported probabilities that sum to more than 1."""
_NUMBER = r"((?:0|[1-9][0-9]*)(?:\.[0-9]+)?)"
_ENDS = r"(?!\w|\.[0-9])"
_WORD = r"(?:my|the|final|overall|revised|corrected|adjusted|actual|true|total|scores?|ratings?|grades?|are|is)"
_ONE_STATED = (
    re.compile(rf"(?<![\w.]){_NUMBER} ?(?:/|out of) ?10{_ENDS}", re.IGNORECASE),
    re.compile(rf"\b(?:score|rating|grade) of {_NUMBER}{_ENDS}", re.IGNORECASE),
)
"""Forms in which reasons state the score of one response."""
_ALL_STATED = {
    1: (re.compile(rf"^[\W_]*(?:{_WORD}[\W_]+)*{_NUMBER}[^\w\n]*$", re.IGNORECASE | re.MULTILINE),),
    2: (
        re.compile(rf"^[\W_]*(?:{_WORD}[\W_]+)*{_NUMBER}[\W_]+(?:and[\W_]+)?{_NUMBER}[^\w\n]*$", re.I | re.MULTILINE),
        re.compile(rf"(?<![\w.]){_NUMBER} +{_NUMBER}{_ENDS}"),
    ),
}
"""Forms in which reasons state all scores: alone on a line, or, for a pair, side by side anywhere."""
_COUNTS = {1: "one score", 2: "two scores"}

Scores = tuple[float, ...]
"""One score for each response shown, in the order shown."""


def parse_pair_scores(completion: Completion) -> Scores:
    """Return the two scores of a pairwise completion.

    Raises:
        ReplyError: If it does not hold exactly two scores.
    """
    return _read_numbers(completion, 2)


def parse_single_score(completion: Completion) -> Scores:
    """Return the score of a completion about one text.

    Raises:
        ReplyError: If it does not hold exactly one score.
    """
    return _read_numbers(completion, 1)


def parse_preference(completion: Completion) -> Scores:
    """Return a preference by the log-probabilities of the first token, as two scores from 1 to 10 that sum to 11.

    With p = P(1) / (P(1) + P(2)), the scores are 1 + 9 p and 10 - 9 p. Their gap is 9 (2 p - 1), from -9 to 9. It
    expresses how sure the judge is, not how much better a response is.

    Raises:
        ReplyError: If the completion is neither digit, or its log-probabilities do not determine p.
    """
    if completion.text.strip() not in ("1", "2"):
        raise ReplyError(f"It must be the digit 1 or the digit 2 and nothing else, but it is {completion.text[:80]!r}.")
    if not completion.top_logprobs:
        raise ReplyError("It came without log-probabilities, which this protocol reads; the endpoint must report them.")
    share = _share_of_first(completion.top_logprobs[0])
    return (LOWEST + 9 * share, HIGHEST - 9 * share)


PARSERS: Mapping[JudgeProtocol, Callable[[Completion], Scores]] = {
    JudgeProtocol.pair_scores: parse_pair_scores,
    JudgeProtocol.single_score: parse_single_score,
    JudgeProtocol.pair_logprobs: parse_preference,
    JudgeProtocol.pair_expected: parse_expected_scores,
    JudgeProtocol.single_expected: parse_expected_score,
}
"""Parser of each protocol."""


def _read_numbers(completion: Completion, count: int) -> Scores:
    first_line, _, reasons = (part.strip() for part in completion.text.strip().partition("\n"))
    cut = completion.finish_reason == "length"
    # `8 1` may be the first half of `8 10`, unless text follows the line.
    if cut and not reasons:
        raise ReplyError("It was cut at the length limit before the scores were surely whole; write them first.")
    match = re.fullmatch(" +".join([_NUMBER] * count), first_line)
    if match is None:
        scores = _read_other_form(completion.text, count, cut=cut)
        if scores is None:
            # The message is the same for every unread form: it is part of the keys of paid completions.
            raise ReplyError(
                f"The first line must hold {_COUNTS[count]} and nothing else, but it is {first_line[:80]!r}."
            )
        return scores
    scores = tuple(float(number) for number in match.groups())
    if not all(LOWEST <= score <= HIGHEST for score in scores):
        raise ReplyError(f"Scores go from 1 to 10, but the first line is {first_line!r}.")
    _reject_other_scores(scores, reasons)
    structured, prose = find_json_statements(clean_text(reasons), count)
    statements, loose = find_statements(prose, count)
    if found := _contradiction(scores, [*structured, *statements], loose):
        raise ReplyError(f"It states scores more than once, and {found[:80]!r} differs from the first line.")
    return scores


def _read_other_form(text: str, count: int, *, cut: bool) -> Scores | None:
    """Return the scores of a completion whose first line is not the requested one; None if it has none for sure."""
    thoughts, answer = split_thoughts(text)
    if thoughts and not answer:
        return None
    answer = clean_text(answer).strip()
    # A closing tag that the reply quotes must not hide the scores above it.
    if thoughts and re.match(" +".join([_NUMBER] * count) + r" *\n", clean_text(text).strip()):
        return None
    structured, prose = find_json_statements(answer, count)
    statements, loose = find_statements(prose, count)
    scores = _agreed([*structured, *statements], count)
    if scores is None or _contradiction(scores, [*structured, *statements], loose):
        return None
    return scores if not cut or _leads(answer, scores) else None


def _leads(answer: str, scores: Scores) -> bool:
    """Return whether the first lines of a cut completion hold the scores, and more text follows them."""
    lines = [line for line in answer.split("\n") if line.strip()]
    head = "\n".join(lines[: len(scores)])
    return len(lines) > len(scores) and _agreed(find_statements(head, len(scores))[0], len(scores)) == scores


def _agreed(statements: Sequence[Statement], count: int) -> Scores | None:
    """Return the scores that all clear statements agree on; None if they differ or leave a response out."""
    values = [
        {score for statement in statements if statement.clear and (score := statement.scores[index]) is not None}
        for index in range(count)
    ]
    if any(len(found) != 1 for found in values):
        return None
    scores = tuple(found.pop() for found in values)
    return scores if all(LOWEST <= score <= HIGHEST for score in scores) else None


def _contradiction(scores: Scores, statements: Sequence[Statement], loose: Sequence[Loose]) -> str | None:
    """Return the words of the first statement that differs from the scores; None if all agree."""
    for statement in statements:
        if any(stated not in (None, score) for stated, score in zip(statement.scores, scores, strict=True)):
            return statement.text
    for stated in loose:
        if stated.score not in scores:
            return stated.text
    # Unnamed scores in another order than the line may be meant for the other response.
    order = list(dict.fromkeys(stated.score for stated in loose))
    if len(order) > 1 and tuple(order) != scores:
        return loose[0].text
    return None


def _reject_other_scores(scores: Scores, reasons: str) -> None:
    """Check that the reasons state no scores but those of the first line.

    Raises:
        ReplyError: If they do.
    """
    single = [match for form in _ONE_STATED for match in form.finditer(reasons) if float(match[1]) not in scores]
    complete = [
        match
        for form in _ALL_STATED[len(scores)]
        for match in form.finditer(reasons)
        if tuple(map(float, match.groups())) != scores
    ]
    for match in (*single, *complete):
        raise ReplyError(f"It states scores more than once, and {match[0].strip()[:80]!r} differs from the first line.")


def _share_of_first(tokens: tuple[TokenLogprob, ...]) -> float:
    """Return P(1) / (P(1) + P(2)) by the most probable first tokens; spaces around a digit do not matter."""
    probabilities = [exp(min(token.logprob, 1.0)) for token in tokens]
    # Written as `not <=`, so that it also rejects NaN.
    if not sum(probabilities) <= 1 + ROUNDING:
        raise ReplyError("The log-probabilities of its first token are none: they add up to more than 1.")
    # Tokenizers mark a leading space with these characters.
    pairs = list(zip((token.token.strip(" \n\t▁Ġ") for token in tokens), probabilities, strict=True))
    one, two = (sum(probability for text, probability in pairs if text == digit) for digit in "12")
    if one + two < MIN_MASS:
        raise ReplyError(f"Its first token is 1 or 2 with a probability of only {one + two:.2f}; reply with the digit.")
    # A digit that was not reported is at most as probable as the least probable reported token.
    unseen = 0.0 if one and two else min(probabilities)
    if unseen / (one + two) > MAX_UNSEEN:
        raise ReplyError("One of the digits is not among the reported tokens, though it may be likely; report more.")
    return one / (one + two)
