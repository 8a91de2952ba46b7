"""Verdicts: teacher and student scored on the same instruction, under one of three protocols.

`pair_scores`, the default, asks for two scores from 1 to 10 in one reply on helpfulness, relevance, accuracy and
level of detail (D of PAPER.md); both orders are asked and averaged, as Lion does. `single_score` shows each answer
alone. `pair_logprobs` reads which answer is preferred, and how surely, from the first token's log-probabilities.
"""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from tapir_exp.config import JudgeConfig, JudgeProtocol
from tapir_exp.core.errors import ReplyError
from tapir_exp.core.records import JudgeReply, PresentationOrder, Rating, Verdict
from tapir_exp.distillation.judge.parse import PARSERS, Scores, parse_single_score
from tapir_exp.distillation.judge.recording import Listener
from tapir_exp.distillation.judge.requests import JudgeRequest, ResponsePair, build_complexity_request, requests_for
from tapir_exp.llm.chat import ChatModel, Completion, TokenLogprob, Usage
from tapir_exp.llm.executor import RequestResult, run_requests


def score_pairs(matches: Sequence[ResponsePair], chat: ChatModel, config: JudgeConfig, label: str) -> list[Verdict]:
    """One verdict a match, in order. A match with any ballot missing is unscored.

    Raises TooManyFailures where more than `config.max_failure_rate` of the ballots are missing.
    """
    asked = [(match.id, question) for match in matches for question in requests_for(match, config)]
    listener = Listener(chat)
    outcomes = run_requests(
        listener,
        [question.request for _, question in asked],
        PARSERS[config.protocol],
        label=label,
        concurrency=config.llm.concurrency,
        max_failure_rate=config.max_failure_rate,
    )
    return build_verdicts(asked, outcomes, listener)


def build_verdicts(
    asked: Sequence[tuple[str, JudgeRequest]], outcomes: Sequence[RequestResult[Scores]], listener: Listener
) -> list[Verdict]:
    """The outcomes of the questions put together, one verdict for each row; questions come with their rows' ids."""
    replies: defaultdict[str, list[JudgeReply]] = defaultdict(list)
    for (row, question), outcome in zip(asked, outcomes, strict=True):
        replies[row].append(build_judge_reply(question, outcome, listener.last_reply(question.request)))
    return [build_verdict(row, cast) for row, cast in replies.items()]


def rate_complexity(
    instructions: Sequence[tuple[str, str]], chat: ChatModel, config: JudgeConfig, label: str
) -> list[Rating]:
    """How complex the judge calls each instruction, from 1 to 10; `instructions` are (id, text) pairs.

    Raises TooManyFailures where more than `config.max_failure_rate` of the ratings are missing.
    """
    outcomes = run_requests(
        chat,
        [build_complexity_request(text, config) for _, text in instructions],
        parse_single_score,
        label=label,
        concurrency=config.llm.concurrency,
        max_failure_rate=config.max_failure_rate,
    )
    return [
        Rating(
            id=row,
            complexity=None if outcome.value is None else outcome.value[0],
            raw=outcome.raw,
            failure=outcome.failure,
        )
        for (row, _), outcome in zip(instructions, outcomes, strict=True)
    ]


def build_judge_reply(question: JudgeRequest, outcome: RequestResult[Scores], reply: Completion | None) -> JudgeReply:
    """A reply as a ballot: the scores given back to whom they belong, and all that a reader reads."""
    return JudgeReply(
        order=question.order,
        **_scores_by_owner(question.order, outcome.value),
        raw=outcome.raw,
        failure=outcome.failure,
        finish_reason=None if reply is None else reply.finish_reason,
        first_token=_first_token(reply),
    )


def build_verdict(row: str, replies: Sequence[JudgeReply]) -> Verdict:
    """The mean over all ballots, or unscored where one is missing: half a verdict would carry the order's bias."""
    teacher = [ballot.teacher for ballot in replies if ballot.teacher is not None]
    student = [ballot.student for ballot in replies if ballot.student is not None]
    if any(ballot.failure is not None for ballot in replies):
        return Verdict(id=row, replies=tuple(replies), teacher=None, student=None)
    return Verdict(id=row, replies=tuple(replies), teacher=fmean(teacher), student=fmean(student))


def reparse_verdict(verdict: Verdict, protocol: JudgeProtocol) -> Verdict:
    """The verdict that the present reader makes of the replies that are kept; no call is made.

    What never came as a reply stays missing. A reply that is refused now is not asked for again.
    """
    return build_verdict(verdict.id, [_reparse_reply(ballot, protocol) for ballot in verdict.replies])


def _reparse_reply(ballot: JudgeReply, protocol: JudgeProtocol) -> JudgeReply:
    if ballot.finish_reason is None:
        return ballot
    tokens = tuple(TokenLogprob(token=token, logprob=logprob) for token, logprob in ballot.first_token)
    unpaid = Usage(prompt_tokens=0, completion_tokens=0, usd=None)
    reply = Completion(
        text=ballot.raw, finish_reason=ballot.finish_reason, usage=unpaid, top_logprobs=(tokens,) if tokens else ()
    )
    try:
        read: dict[str, Any] = {**_scores_by_owner(ballot.order, PARSERS[protocol](reply)), "failure": None}
    except ReplyError as refusal:
        read = {**_scores_by_owner(ballot.order, None), "failure": f"unreadable reply: {refusal}"}
    return ballot.model_copy(update=read)


def _scores_by_owner(order: PresentationOrder, scores: Scores | None) -> dict[str, float | None]:
    """The scores by owner; None for whom the reply says nothing of."""
    owned = {} if scores is None else dict(zip(order.shown, scores, strict=True))
    return {"teacher": owned.get("teacher"), "student": owned.get("student")}


def _first_token(reply: Completion | None) -> tuple[tuple[str, float], ...]:
    if reply is None or not reply.top_logprobs:
        return ()
    return tuple((token.token, token.logprob) for token in reply.top_logprobs[0])
