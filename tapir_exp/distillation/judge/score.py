"""Verdicts: scores of two responses to the same instruction, under one of the protocols.

`pair_scores`, the default, requests two scores from 1 to 10 in one completion, on helpfulness, relevance, accuracy and
level of detail. Both presentation orders are requested and averaged, as in Lion. `single_score` shows each response
alone. `pair_logprobs` reads the preferred response, and how sure the judge is, from the log-probabilities of the first
token; `pair_expected` and `single_expected` read expected scores from log-probabilities.

Example:
    >>> pairs = [ResponsePair("seed-1", "Name a prime.", "7 is a prime number.", "9")]
    >>> (verdict,) = score_pairs(pairs, judge, config.judge, "judging")  # doctest: +SKIP
    >>> verdict.gap  # doctest: +SKIP
    6.5
"""

from collections import defaultdict
from collections.abc import Callable, MutableMapping, Sequence
from statistics import fmean, median
from typing import Any

from tapir_exp.config import JudgeConfig, JudgeProtocol, PanelScore
from tapir_exp.core.errors import ReplyError
from tapir_exp.core.records import JudgeReply, PresentationOrder, Rating, Verdict
from tapir_exp.core.stored_rows import LazySequence, in_order
from tapir_exp.distillation.judge.notes import write_notes
from tapir_exp.distillation.judge.parse import PARSERS, Scores, parse_single_score
from tapir_exp.distillation.judge.requests import (
    Presentation,
    ResponsePair,
    build_complexity_request,
    build_judge_request,
    presentations,
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
    calls = presentations(config)
    collected = VerdictCollector(lambda number: pairs[number].id, config, {} if verdicts is None else verdicts)
    noted = write_notes(pairs, chat, config, label)

    def build(index: int) -> ChatRequest:
        return build_judge_request(noted[index // len(calls)], calls[index % len(calls)], config)

    def add(index: int, result: RequestResult[Scores]) -> None:
        collected.add(index, result)
        if on_result is not None:
            on_result(index, result)

    # Without its notes, a judge would score under another protocol, so it is not asked.
    failed = _failed_notes(noted, calls) if config.writes_notes else {}
    for index, failure in failed.items():
        add(index, RequestResult(None, "", failure))
    every = range(len(pairs) * len(calls))
    sent = [index for index in every if index not in failed] if failed else every
    run_each(
        chat,
        LazySequence(len(sent), lambda number: build(sent[number])),
        PARSERS[config.protocol],
        lambda number, result: add(sent[number], result),
        label=label,
        concurrency=config.most_in_flight,
        max_failure_rate=config.max_failure_rate,
    )
    return in_order(collected.verdicts, len(pairs))


def _failed_notes(noted: Sequence[ResponsePair], calls: Sequence[Presentation]) -> dict[int, str]:
    """Return why the judge of a request has no notes, by the index of the request."""
    return {
        number * len(calls) + position: f"no notes: {failure}"
        for number, pair in enumerate(noted)
        for position, shown in enumerate(calls)
        if (failure := pair.notes[shown.member].failure) is not None
    }


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
        self._row_id, self._calls, self._combine = row_id, presentations(config), config.panel.combine
        self._replies: dict[int, dict[int, JudgeReply]] = {}

    def shown_at(self, index: int) -> tuple[str, Presentation]:
        """Return the row id of a request, and what it shows; its index counts the requests of all pairs."""
        pair, position = divmod(index, len(self._calls))
        return self._row_id(pair), self._calls[position]

    def add(self, index: int, result: RequestResult[Scores]) -> None:
        """Add the result of a request."""
        pair, position = divmod(index, len(self._calls))
        replies = self._replies.setdefault(pair, {})
        replies[position] = build_judge_reply(self._calls[position], result)
        if len(replies) == len(self._calls):
            del self._replies[pair]
            ordered = [replies[number] for number in sorted(replies)]
            self.verdicts[pair] = build_verdict(self._row_id(pair), ordered, self._combine)


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
    shown: Sequence[tuple[str, Presentation]], results: Sequence[RequestResult[Scores]]
) -> list[Verdict]:
    """Combine the results of requests, which come with their row ids, to one verdict for each row."""
    replies: defaultdict[str, list[JudgeReply]] = defaultdict(list)
    for (row_id, presentation), result in zip(shown, results, strict=True):
        replies[row_id].append(build_judge_reply(presentation, result))
    return [build_verdict(row_id, of_row) for row_id, of_row in replies.items()]


def build_judge_reply(shown: Presentation, result: RequestResult[Scores]) -> JudgeReply:
    """Return the record of one request: its scores by author, and everything that parsing it again needs."""
    completion = result.completion
    kept = () if completion is None else completion.top_logprobs[: shown.positions]
    return JudgeReply(
        order=shown.order,
        **_scores_by_owner(shown.order, result.value),
        raw=result.raw,
        failure=result.failure,
        finish_reason=None if completion is None else completion.finish_reason,
        first_token=_plain(kept[0]) if kept else (),
        next_tokens=tuple(map(_plain, kept[1:])),
        judge=shown.judge,
        sample=shown.sample,
    )


def build_verdict(row_id: str, replies: Sequence[JudgeReply], combine: PanelScore = PanelScore.mean) -> Verdict:
    """Return the scores over all replies.

    A judge's scores are the mean over its orders, and over the samples of each. A judge without scores of more than
    half of the samples of an order has none. A mean over one order alone would carry the position bias that the other
    order cancels. A panel needs scores of more than half of its judges.
    """
    by_judge: defaultdict[str, list[JudgeReply]] = defaultdict(list)
    for reply in replies:
        by_judge[reply.judge].append(reply)
    scored = [scores for of_judge in by_judge.values() if (scores := _scores_of_judge(of_judge)) is not None]
    if 2 * len(scored) <= len(by_judge):
        return Verdict(id=row_id, replies=tuple(replies), teacher=None, student=None)
    average = fmean if combine is PanelScore.mean else median
    teacher, student = (average(column) for column in zip(*scored, strict=True))
    return Verdict(id=row_id, replies=tuple(replies), teacher=teacher, student=student)


def split_panel(verdict: Verdict) -> dict[str, Verdict]:
    """Return the verdict of each judge of a panel by name; that of the only judge has an empty name."""
    by_judge: defaultdict[str, list[JudgeReply]] = defaultdict(list)
    for reply in verdict.replies:
        by_judge[reply.judge].append(reply)
    return {judge: build_verdict(verdict.id, replies) for judge, replies in by_judge.items()}


def _scores_of_judge(replies: Sequence[JudgeReply]) -> tuple[float, float] | None:
    """Return the mean scores of teacher and student by one judge; None if an order lacks too many samples."""
    by_order: defaultdict[PresentationOrder, list[JudgeReply]] = defaultdict(list)
    for reply in replies:
        by_order[reply.order].append(reply)
    teacher: list[float] = []
    student: list[float] = []
    for samples in by_order.values():
        usable = [reply for reply in samples if reply.failure is None]
        if 2 * len(usable) <= len(samples):
            return None
        # Each order weighs the same, however many of its samples are usable.
        if scores := [reply.teacher for reply in usable if reply.teacher is not None]:
            teacher.append(fmean(scores))
        if scores := [reply.student for reply in usable if reply.student is not None]:
            student.append(fmean(scores))
    return fmean(teacher), fmean(student)


def reparse_verdict(verdict: Verdict, protocol: JudgeProtocol, combine: PanelScore = PanelScore.mean) -> Verdict:
    """Return the verdict that the current parser reads from the stored completions, without any call.

    A reply that failed without a completion stays failed, and one that the parser rejects now is not requested again.
    """
    return build_verdict(verdict.id, [_reparse_reply(reply, protocol) for reply in verdict.replies], combine)


def _reparse_reply(reply: JudgeReply, protocol: JudgeProtocol) -> JudgeReply:
    if reply.finish_reason is None:
        return reply
    positions = (reply.first_token, *reply.next_tokens) if reply.first_token else ()
    completion = Completion(
        text=reply.raw,
        finish_reason=reply.finish_reason,
        usage=Usage(prompt_tokens=0, completion_tokens=0, usd=None),
        top_logprobs=tuple(
            tuple(TokenLogprob(token=token, logprob=logprob) for token, logprob in tokens) for tokens in positions
        ),
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


def _plain(tokens: Sequence[TokenLogprob]) -> tuple[tuple[str, float], ...]:
    return tuple((token.token, token.logprob) for token in tokens)
