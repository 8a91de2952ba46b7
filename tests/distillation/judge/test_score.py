"""Verdicts: both orders, a mean without position bias, and no score for a row with a failed request."""

import re
from collections.abc import Callable
from math import log

import pytest
from fakes import Scripted, ScriptedChat, completion_of, prompt_of, tagged, timeout_error

from tapir_exp.config import JudgeConfig, JudgeProtocol, LLMConfig
from tapir_exp.core.errors import TooManyFailures
from tapir_exp.core.records import JudgeReply, PresentationOrder, Verdict
from tapir_exp.distillation.judge.requests import ResponsePair
from tapir_exp.distillation.judge.score import build_verdict, rate_complexity, reparse_verdict, score_pairs
from tapir_exp.llm.chat import ChatRequest, Completion, TokenLogprob

BOTH = JudgeConfig(llm=LLMConfig(model="m", concurrency=1))
ONE = JudgeConfig(llm=LLMConfig(model="m", concurrency=1), swap_positions=False)


def pair(row_id: str = "a", teacher: float = 8, student: float = 5) -> ResponsePair:
    return ResponsePair(row_id, f"instruction {row_id}", f"teacher's, worth {teacher}", f"student's, worth {student}")


def worth(text: str) -> float:
    match = re.search(r"worth (\S+)", text)
    assert match
    return float(match[1])


def biased(by: float) -> Callable[[ChatRequest], str]:
    """Return a judge that sees the worth of a response, and adds `by` points to the one shown first."""

    def judge(request: ChatRequest) -> str:
        first, second = (worth(tagged(prompt_of(request), f"assistant_{position}")[0]) for position in (1, 2))
        return f"{first + by} {second}\nBecause 9 is more than 3."

    return judge


def failing(at: int, reply: Scripted) -> Callable[[ChatRequest], Scripted]:
    """Return a fair judge that gives `reply` to request number `at` and to its retries."""
    seen: list[str] = []

    def judge(request: ChatRequest) -> Scripted:
        if prompt_of(request) not in seen:
            seen.append(prompt_of(request))
        return reply if seen.index(prompt_of(request)) == at else biased(0)(request)

    return judge


def test_score_pairs_requests_both_orders() -> None:
    chat = ScriptedChat(biased(0))
    score_pairs([pair("a"), pair("b")], chat, BOTH, "judging")
    shown = [
        [tagged(prompt_of(request), f"assistant_{position}")[0][:7] for position in (1, 2)] for request in chat.requests
    ]
    assert shown == [["teacher", "student"], ["student", "teacher"]] * 2
    assert [tagged(prompt_of(request), "instruction") for request in chat.requests] == [
        [f"instruction {row}"] for row in "aabb"
    ]


@pytest.mark.parametrize("by", [0.0, 1.0, 2.0, -1.5])
def test_score_pairs_position_bias_cancels_in_the_gap(by: float) -> None:
    (verdict,) = score_pairs([pair(teacher=7, student=4)], ScriptedChat(biased(by)), BOTH, "judging")
    assert verdict.gap == 3
    assert (verdict.teacher, verdict.student) == (7 + by / 2, 4 + by / 2)


def test_score_pairs_one_order_carries_the_bias() -> None:
    chat = ScriptedChat(biased(1))
    (verdict,) = score_pairs([pair(teacher=7, student=4)], chat, ONE, "judging")
    assert verdict.gap == 4
    assert len(chat.requests) == len(verdict.replies) == 1
    assert verdict.replies[0].order is PresentationOrder.TEACHER_FIRST


def test_score_pairs_assigns_scores_to_their_authors() -> None:
    (verdict,) = score_pairs([pair(teacher=9, student=2)], ScriptedChat(biased(1)), BOTH, "judging")
    assert [(reply.order, reply.teacher, reply.student) for reply in verdict.replies] == [
        (PresentationOrder.TEACHER_FIRST, 10, 2),
        (PresentationOrder.STUDENT_FIRST, 9, 3),
    ]
    assert [reply.raw for reply in verdict.replies] == [
        "10.0 2.0\nBecause 9 is more than 3.",
        "3.0 9.0\nBecause 9 is more than 3.",
    ]


def test_score_pairs_keeps_the_order_of_pairs() -> None:
    pairs = [pair(str(n), teacher=8, student=1 + n) for n in range(7)]
    verdicts = score_pairs(pairs, ScriptedChat(biased(1)), BOTH, "judging")
    assert [(verdict.id, verdict.gap) for verdict in verdicts] == [(str(n), 7 - n) for n in range(7)]


def test_score_pairs_retries_a_cut_reply() -> None:
    chat = ScriptedChat([completion_of("8 1", finish_reason="length"), "8 10", "10 8"])
    (verdict,) = score_pairs([pair()], chat, BOTH, "judging")
    assert (verdict.teacher, verdict.student) == (8, 10)
    assert [request.max_tokens for request in chat.requests[:2]] == [BOTH.max_tokens, 2 * BOTH.max_tokens]


def test_score_pairs_retries_with_the_parse_error() -> None:
    chat = ScriptedChat(["8 or 6", "8 6", "5 7"])
    (verdict,) = score_pairs([pair()], chat, BOTH, "judging")
    assert (verdict.teacher, verdict.student) == (7.5, 5.5)
    first, again, _ = chat.requests
    assert again.messages[:-2] == first.messages
    assert [message.role for message in again.messages] == ["user", "assistant", "user"]
    assert again.messages[1].content == "8 or 6"
    assert "two scores and nothing else, but it is '8 or 6'" in again.messages[2].content


def test_score_pairs_does_not_retry_twice() -> None:
    chat = ScriptedChat(["?", "??", "5 7"])
    (verdict,) = score_pairs([pair()], chat, JudgeConfig(llm=BOTH.llm, max_failure_rate=0.5), "judging")
    assert len(chat.requests) == 3
    assert verdict.replies[0].raw == "??"


@pytest.mark.parametrize("reply", ["I cannot say.", timeout_error()])
@pytest.mark.parametrize("at", [0, 1])
def test_score_pairs_failed_reply_leaves_the_row_unscored(at: int, reply: Scripted) -> None:
    config = JudgeConfig(llm=BOTH.llm, max_failure_rate=0.25)
    unscored, scored = score_pairs([pair("a"), pair("b")], ScriptedChat(failing(at, reply)), config, "judging")
    assert (unscored.teacher, unscored.student, unscored.gap) == (None, None, None)
    failed, other = unscored.replies[at], unscored.replies[1 - at]
    assert (failed.teacher, failed.student) == (None, None)
    assert failed.failure
    assert ("unreadable reply" if isinstance(reply, str) else "time-out: no reply in 1 s") in failed.failure
    assert failed.raw == (reply if isinstance(reply, str) else "")
    assert (other.teacher, other.student, other.failure) == (8, 5, None)
    assert scored.gap == 3


def test_score_pairs_too_many_failures_show_a_table() -> None:
    pairs = [pair(row) for row in "abcd"]
    replies: list[Scripted] = [*["8 6"] * 5, timeout_error(), timeout_error(), "95 3", "95 3"]
    with pytest.raises(TooManyFailures) as caught:
        score_pairs(pairs, ScriptedChat(replies), JudgeConfig(llm=BOTH.llm, max_failure_rate=0.2), "judging S_0")
    head, first, second, tail = str(caught.value).split("\n")
    assert head == "judging S_0: 3 of 8 rows failed, more than the allowed 20.0%:"
    assert first.split(None, 1) == ["2", "time-out: no reply in 1 s"]
    assert second.split(None, 1)[0] == "1"
    assert "Scores go from 1 to 10" in second
    assert "max_failure_rate" in tail


def test_score_pairs_tolerates_allowed_failures() -> None:
    replies: list[Scripted] = [*["8 6"] * 6, timeout_error(), timeout_error()]
    verdicts = score_pairs(
        [pair(row) for row in "abcd"], ScriptedChat(replies), JudgeConfig(llm=BOTH.llm, max_failure_rate=0.25), ""
    )
    assert [verdict.gap for verdict in verdicts[:3]] == [0, 0, 0]
    assert verdicts[3].gap is None


def test_score_pairs_without_pairs_is_empty() -> None:
    assert score_pairs([], ScriptedChat([]), BOTH, "judging") == []


def test_build_verdict_is_the_mean_of_its_replies() -> None:
    replies = [
        JudgeReply(order=PresentationOrder.TEACHER_FIRST, teacher=9, student=4, raw=""),
        JudgeReply(order=PresentationOrder.STUDENT_FIRST, teacher=8, student=5, raw=""),
    ]
    assert build_verdict("a", replies) == Verdict(id="a", replies=tuple(replies), teacher=8.5, student=4.5)


SINGLE = JudgeConfig(llm=BOTH.llm, protocol=JudgeProtocol.single_score)
LOGPROBS = JudgeConfig(llm=BOTH.llm, protocol=JudgeProtocol.pair_logprobs)


def alone(request: ChatRequest) -> str:
    (answer,) = tagged(prompt_of(request), "answer")
    return f"{worth(answer)}\nThat is what it is worth."


def test_single_score_requests_each_response_alone() -> None:
    verdicts = score_pairs([pair("a", 8, 5), pair("b", 6, 7.5)], ScriptedChat(alone), SINGLE, "judging")
    assert [(verdict.teacher, verdict.student, verdict.gap) for verdict in verdicts] == [(8, 5, 3), (6, 7.5, -1.5)]
    assert [(reply.order, reply.teacher, reply.student) for reply in verdicts[0].replies] == [
        (PresentationOrder.TEACHER_ALONE, 8, None),
        (PresentationOrder.STUDENT_ALONE, None, 5),
    ]


def test_single_score_missing_leaves_the_row_unscored() -> None:
    chat = ScriptedChat(["8", "I cannot.", "I cannot.", "7", "6"])
    config = JudgeConfig(llm=BOTH.llm, protocol=JudgeProtocol.single_score, max_failure_rate=0.25)
    unscored, scored = score_pairs([pair("a"), pair("b")], chat, config, "judging")
    assert (unscored.teacher, unscored.student, unscored.gap) == (None, None, None)
    assert (unscored.replies[0].teacher, unscored.replies[1].raw) == (8, "I cannot.")
    assert scored.gap == 1


def leaning(share: float, bias: float = 0.0) -> Callable[[ChatRequest], Completion]:
    """Return a judge that prefers the teacher with probability `share`, and adds `bias` for the first position."""

    def judge(request: ChatRequest) -> Completion:
        first = tagged(prompt_of(request), "assistant_1")[0]
        one = (share if first.startswith("teacher") else 1 - share) + bias
        probabilities = (("1", one), ("2", 1 - one))
        top = tuple(TokenLogprob(token=token, logprob=log(probability)) for token, probability in probabilities)
        return completion_of("1" if one >= 0.5 else "2", "length").model_copy(update={"top_logprobs": (top,)})

    return judge


@pytest.mark.parametrize("share", [0.5, 0.75, 0.2])
@pytest.mark.parametrize("bias", [0.0, 0.1])
def test_pair_logprobs_gap_is_without_position_bias(share: float, bias: float) -> None:
    """The gap lies between -9 and 9."""
    (verdict,) = score_pairs([pair()], ScriptedChat(leaning(share, bias)), LOGPROBS, "judging")
    assert verdict.gap == pytest.approx(9 * (2 * share - 1))
    assert verdict.teacher is not None
    assert verdict.student is not None
    assert verdict.teacher + verdict.student == pytest.approx(11)


def test_judge_reply_keeps_what_parsing_needs() -> None:
    (verdict,) = score_pairs([pair()], ScriptedChat(leaning(0.75)), LOGPROBS, "judging")
    assert {(reply.raw, reply.finish_reason) for reply in verdict.replies} == {("1", "length"), ("2", "length")}
    assert dict(verdict.replies[0].first_token) == pytest.approx({"1": log(0.75), "2": log(0.25)})
    chat = ScriptedChat(["Hm.", "8 6\nWell.", "5 7", "7 5"])
    (again,) = score_pairs([pair()], chat, BOTH, "judging")
    assert [(reply.raw, reply.finish_reason) for reply in again.replies] == [("8 6\nWell.", "stop"), ("5 7", "stop")]


def test_judge_reply_without_completion_has_no_finish_reason() -> None:
    config = JudgeConfig(llm=BOTH.llm, max_failure_rate=0.5)
    (verdict,) = score_pairs([pair()], ScriptedChat([timeout_error(), "7 5"]), config, "judging")
    assert [(reply.raw, reply.finish_reason) for reply in verdict.replies] == [("", None), ("7 5", "stop")]


@pytest.mark.parametrize(("config", "script"), [(BOTH, biased(1)), (SINGLE, alone), (LOGPROBS, leaning(0.75))])
def test_reparse_verdict_by_the_same_parser_is_equal(
    config: JudgeConfig, script: Callable[[ChatRequest], Scripted]
) -> None:
    verdicts = score_pairs([pair("a"), pair("b", 7, 7)], ScriptedChat(script), config, "judging")
    assert [reparse_verdict(verdict, config.protocol) for verdict in verdicts] == verdicts


def test_reparse_verdict_uses_stored_completions() -> None:
    replies = [
        JudgeReply(
            order=PresentationOrder.TEACHER_FIRST,
            teacher=None,
            student=None,
            raw="8 6\nGood.",
            failure="x",
            finish_reason="stop",
        ),
        JudgeReply(order=PresentationOrder.STUDENT_FIRST, teacher=3, student=3, raw="5 7", finish_reason="stop"),
    ]
    verdict = reparse_verdict(build_verdict("a", replies), JudgeProtocol.pair_scores)
    assert (verdict.teacher, verdict.student) == (7.5, 5.5)
    assert [reply.failure for reply in verdict.replies] == [None, None]


@pytest.mark.parametrize(("raw", "finish_reason"), [("8 1", "length"), ("8 6 or 6 8", "stop")])
def test_reparse_verdict_rejected_reply_is_unscored(raw: str, finish_reason: str) -> None:
    parsed = JudgeReply(
        order=PresentationOrder.TEACHER_FIRST, teacher=8, student=1, raw=raw, finish_reason=finish_reason
    )
    verdict = reparse_verdict(build_verdict("a", [parsed]), JudgeProtocol.pair_scores)
    assert (verdict.gap, verdict.replies[0].teacher) == (None, None)
    assert (verdict.replies[0].failure or "").startswith("unreadable reply: ")


def test_reparse_verdict_failed_call_stays_failed() -> None:
    failed = JudgeReply(
        order=PresentationOrder.TEACHER_FIRST, teacher=None, student=None, raw="", failure="time-out: 9 s"
    )
    assert reparse_verdict(build_verdict("a", [failed]), JudgeProtocol.pair_scores) == build_verdict("a", [failed])


def test_rate_complexity_shows_the_instruction_only() -> None:
    chat = ScriptedChat(["7\nMany steps.", "Hm.", "Hm?", "1"])
    config = JudgeConfig(llm=BOTH.llm, max_failure_rate=0.3)
    rated = rate_complexity([("a", "Prove it."), ("b", "Hm"), ("c", "Hi")], chat, config, "rating")
    assert [(rating.id, rating.complexity) for rating in rated] == [("a", 7), ("b", None), ("c", 1)]
    assert rated[0].raw == "7\nMany steps."
    assert "one score" in (rated[1].failure or "")
    assert tagged(prompt_of(chat.requests[0]), "instruction") == ["Prove it."]
