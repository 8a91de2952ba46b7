"""The judge: teacher and student scored side by side, in both orders.

Protocol: two scores from 1 to 10 in one reply on helpfulness, relevance, accuracy and level of detail (D of
PAPER.md); both orders are asked and averaged, as Lion does.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tapir_exp.config import JudgeConfig, Orders
from tapir_exp.errors import ReplyError
from tapir_exp.llm.ask import Outcome, ask_all
from tapir_exp.llm.chat import ChatModel, ChatRequest, Message, Reply
from tapir_exp.prompts import load_prompt
from tapir_exp.records import Ballot, Order, Verdict

LOWEST, HIGHEST = 1.0, 10.0
_SCORES = re.compile(r"(\d+(?:\.\d+)?) +(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Match:
    """Two responses to one instruction."""

    id: str
    instruction: str
    teacher: str
    student: str


@dataclass(frozen=True)
class Scores:
    """The two scores of a reply, in the order in which the responses were shown."""

    first: float
    second: float


def judge(matches: Sequence[Match], chat: ChatModel, config: JudgeConfig, label: str) -> list[Verdict]:
    """One verdict a match, in order. A match with any ballot missing is unscored.

    Raises TooManyFailures where more than `config.max_failed` of the ballots are missing.
    """
    orders = orders_of(config.orders)
    requests = [judge_request(match, order, config) for match in matches for order in orders]
    outcomes = ask_all(
        chat,
        requests,
        read_scores,
        label=label,
        concurrency=config.llm.concurrency,
        max_failed=config.max_failed,
    )
    size = len(orders)
    return [
        verdict_of(match.id, [ballot_of(order, outcome) for order, outcome in zip(orders, heard, strict=True)])
        for match, heard in zip(matches, (outcomes[i : i + size] for i in range(0, len(outcomes), size)), strict=True)
    ]


def orders_of(orders: Orders) -> tuple[Order, ...]:
    """The orders that a configuration asks for."""
    return tuple(Order) if orders is Orders.both else (Order.TEACHER_FIRST,)


def judge_request(match: Match, order: Order, config: JudgeConfig) -> ChatRequest:
    """The call that shows both responses in one order."""
    shown = (match.teacher, match.student) if order is Order.TEACHER_FIRST else (match.student, match.teacher)
    text = load_prompt("judge").fill(instruction=match.instruction, first=shown[0], second=shown[1])
    message = Message(role="user", content=text)
    return ChatRequest(messages=(message,), max_tokens=config.max_tokens, temperature=config.temperature)


def read_scores(reply: Reply) -> Scores:
    """The two scores of the first line. Raises ReplyError where that line holds anything else, or may be cut."""
    first_line, _, reasons = (part.strip() for part in reply.text.strip().partition("\n"))
    if reply.finish_reason == "length" and not reasons:
        raise ReplyError("It was cut at the length limit before the scores were surely whole; write them first.")
    found = _SCORES.fullmatch(first_line)
    if found is None:
        raise ReplyError(f"The first line must hold two scores and nothing else, but it is {first_line[:80]!r}.")
    scores = Scores(float(found[1]), float(found[2]))
    if not all(LOWEST <= score <= HIGHEST for score in (scores.first, scores.second)):
        raise ReplyError(f"Scores go from 1 to 10, but the first line is {first_line!r}.")
    return scores


def ballot_of(order: Order, outcome: Outcome[Scores]) -> Ballot:
    """A reply as a ballot: the scores given back to whom they belong."""
    if outcome.value is None:
        return Ballot(order=order, teacher=None, student=None, raw=outcome.raw, failure=outcome.failure)
    first, second = outcome.value.first, outcome.value.second
    teacher, student = (first, second) if order is Order.TEACHER_FIRST else (second, first)
    return Ballot(order=order, teacher=teacher, student=student, raw=outcome.raw)


def verdict_of(row: str, ballots: Sequence[Ballot]) -> Verdict:
    """The mean over all ballots, or unscored where one is missing: half a verdict would carry the order's bias."""
    teacher = [ballot.teacher for ballot in ballots if ballot.teacher is not None]
    student = [ballot.student for ballot in ballots if ballot.student is not None]
    if len(teacher) < len(ballots) or len(student) < len(ballots):
        return Verdict(id=row, ballots=tuple(ballots), teacher=None, student=None)
    return Verdict(id=row, ballots=tuple(ballots), teacher=fmean(teacher), student=fmean(student))
