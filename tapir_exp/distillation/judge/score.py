"""Verdicts: scores of two responses to the same instruction, under one of three protocols.

`pair_scores`, the default, requests two scores from 1 to 10 in one completion, on helpfulness, relevance, accuracy and
level of detail. Both presentation orders are requested and averaged, as in Lion. `single_score` shows each response
alone. `pair_logprobs` reads the preferred response, and how sure the judge is, from the log-probabilities of the first
token.

Example:
    >>> pairs = [ResponsePair("seed-1", "Name a prime.", "7 is a prime number.", "9")]
    >>> (verdict,) = score_pairs(pairs, judge, config.judge, "judging")  # doctest: +SKIP
    >>> verdict.gap  # doctest: +SKIP
    6.5
"""

from collections import defaultdict
from collections.abc import Callable, MutableMapping, Sequence
from statistics import fmean
from typing import Any

from tapir_exp.config import JudgeConfig, JudgeProtocol
from tapir_exp.core.errors import ReplyError
from tapir_exp.core.records import JudgeReply, PresentationOrder, Rating, Verdict
from tapir_exp.core.stored_rows import LazySequence, in_order
from tapir_exp.distillation.judge.parse import PARSERS, Scores, parse_single_score
from tapir_exp.distillation.judge.requests import (
    ResponsePair,
    build_complexity_request,
    build_judge_request,
    presentation_orders,
)
from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion, TokenLogprob, Usage
from tapir_exp.llm.executor import OnResult, RequestResult, run_each, run_requests


def score_pairs(
    pairs: Sequence[ResponsePair],
    chat: ChatModel,
    config: JudgeConfig,
    label: str,
    on_result: OnResult | None = None,
    verdicts: MutableMapping[int, Verdict] | None = None,
) -> Sequence[Verdict]:
    """Return one verdict for each pair, in order; a pair with a failed request is unscored.

    Args:
        pairs: What to judge.
        chat: The judge.
        config: The settings of the judge.
        label: Name of the progress bar and of error messages.
        on_result: Called with the index of each request, which counts the requests of all pairs in order, and its
            result.
        verdicts: Gets the verdicts, by the index of their pair; by default they stay in memory.

    Raises:
        TooManyFailures: If more than `config.max_failure_rate` of the requests failed.
    """
    orders = presentation_orders(config)
    collected = VerdictCollector(lambda number: pairs[number].id, config, {} if verdicts is None else verdicts)

    def build(index: int) -> ChatRequest:
        return build_judge_request(pairs[index // len(orders)], orders[index % len(orders)], config)

    def add(index: int, result: RequestResult[Scores]) -> None:
        collected.add(index, result)
        if on_result is not None:
            on_result(index, result)

    run_each(
        chat,
        LazySequence(len(pairs) * len(orders), build),
        PARSERS[config.protocol],
        add,
        label=label,
        concurrency=config.llm.most_in_flight,
        max_failure_rate=config.max_failure_rate,
    )
    return in_order(collected.verdicts, len(pairs))


class VerdictCollector:
    """Combines results to verdicts as they come, and keeps only the replies of rows that lack some.

    Attributes:
        verdicts: The verdicts so far, by the index of their pair.
    """

    def __init__(
        self, row_id: Callable[[int], str], config: JudgeConfig, verdicts: MutableMapping[int, Verdict]
    ) -> None:
        """Set up the collector.

        Args:
            row_id: Returns the id of the row of a pair.
            config: The settings of the judge.
            verdicts: Gets the verdicts.
        """
        self.verdicts = verdicts
        self._row_id, self._orders = row_id, presentation_orders(config)
        self._replies: dict[int, dict[int, JudgeReply]] = {}

    def shown_at(self, index: int) -> tuple[str, PresentationOrder]:
        """Return the row id and the order of a request; its index counts the requests of all pairs."""
        pair, position = divmod(index, len(self._orders))
        return self._row_id(pair), self._orders[position]

    def add(self, index: int, result: RequestResult[Scores]) -> None:
        """Add the result of a request."""
        pair, position = divmod(index, len(self._orders))
        replies = self._replies.setdefault(pair, {})
        replies[position] = build_judge_reply(self._orders[position], result)
        if len(replies) == len(self._orders):
            del self._replies[pair]
            self.verdicts[pair] = build_verdict(self._row_id(pair), [replies[number] for number in sorted(replies)])


def rate_complexity(
    instructions: Sequence[tuple[str, str]], chat: ChatModel, config: JudgeConfig, label: str
) -> list[Rating]:
    """Return the judge's rating of each instruction's complexity, from 1 to 10.

    Args:
        instructions: Pairs of id and text.
        chat: The judge.
        config: The settings of the judge.
        label: Name of the progress bar and of error messages.

    Raises:
        TooManyFailures: If more than `config.max_failure_rate` of the requests failed.
    """
    results = run_requests(
        chat,
        [build_complexity_request(text, config) for _, text in instructions],
        parse_single_score,
        label=label,
        concurrency=config.llm.most_in_flight,
        max_failure_rate=config.max_failure_rate,
    )
    return [
        Rating(
            id=row_id,
            complexity=None if result.value is None else result.value[0],
            raw=result.raw,
            failure=result.failure,
        )
        for (row_id, _), result in zip(instructions, results, strict=True)
    ]


def build_verdicts(
    shown: Sequence[tuple[str, PresentationOrder]], results: Sequence[RequestResult[Scores]]
) -> list[Verdict]:
    """Combine the results of requests, which come with their row ids and orders, to one verdict for each row."""
    replies: defaultdict[str, list[JudgeReply]] = defaultdict(list)
    for (row_id, order), result in zip(shown, results, strict=True):
        replies[row_id].append(build_judge_reply(order, result))
    return [build_verdict(row_id, of_row) for row_id, of_row in replies.items()]


def build_judge_reply(order: PresentationOrder, result: RequestResult[Scores]) -> JudgeReply:
    """Return the record of one request: its scores by author, and everything that parsing it again needs."""
    completion = result.completion
    return JudgeReply(
        order=order,
        **_scores_by_owner(order, result.value),
        raw=result.raw,
        failure=result.failure,
        finish_reason=None if completion is None else completion.finish_reason,
        first_token=_first_token(completion),
    )


def build_verdict(row_id: str, replies: Sequence[JudgeReply]) -> Verdict:
    """Return the mean scores over all replies; unscored if any reply failed."""
    # A mean over one order alone would carry the position bias that the other order cancels.
    if any(reply.failure is not None for reply in replies):
        return Verdict(id=row_id, replies=tuple(replies), teacher=None, student=None)
    teacher = fmean(reply.teacher for reply in replies if reply.teacher is not None)
    student = fmean(reply.student for reply in replies if reply.student is not None)
    return Verdict(id=row_id, replies=tuple(replies), teacher=teacher, student=student)


def reparse_verdict(verdict: Verdict, protocol: JudgeProtocol) -> Verdict:
    """Return the verdict that the current parser reads from the stored completions, without any call.

    A reply that failed without a completion stays failed, and one that the parser rejects now is not requested again.
    """
    return build_verdict(verdict.id, [_reparse_reply(reply, protocol) for reply in verdict.replies])


def _reparse_reply(reply: JudgeReply, protocol: JudgeProtocol) -> JudgeReply:
    if reply.finish_reason is None:
        return reply
    tokens = tuple(TokenLogprob(token=token, logprob=logprob) for token, logprob in reply.first_token)
    completion = Completion(
        text=reply.raw,
        finish_reason=reply.finish_reason,
        usage=Usage(prompt_tokens=0, completion_tokens=0, usd=None),
        top_logprobs=(tokens,) if tokens else (),
    )
    try:
        update: dict[str, Any] = {**_scores_by_owner(reply.order, PARSERS[protocol](completion)), "failure": None}
    except ReplyError as error:
        update = {**_scores_by_owner(reply.order, None), "failure": f"unreadable reply: {error}"}
    return reply.model_copy(update=update)


def _scores_by_owner(order: PresentationOrder, scores: Scores | None) -> dict[str, float | None]:
    """Return the scores of teacher and student; None for a response that was not shown or not scored."""
    by_owner = {} if scores is None else dict(zip(order.shown, scores, strict=True))
    return {"teacher": by_owner.get("teacher"), "student": by_owner.get("student")}


def _first_token(completion: Completion | None) -> tuple[tuple[str, float], ...]:
    if completion is None or not completion.top_logprobs:
        return ()
    return tuple((token.token, token.logprob) for token in completion.top_logprobs[0])
