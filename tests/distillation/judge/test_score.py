"""Verdicts: both orders asked, the order's bias gone from the mean, and no score for what was not read."""

import re
from collections.abc import Callable
from math import log

import pytest
from fakes import Said, ScriptedChat, reply_of, said_to, tagged, time_out

from tapir_exp.config import JudgeConfig, JudgeProtocol, LLMConfig
from tapir_exp.core.errors import TooManyFailures
from tapir_exp.core.records import JudgeReply, PresentationOrder, Verdict
from tapir_exp.distillation.judge.requests import ResponsePair
from tapir_exp.distillation.judge.score import build_verdict, rate_complexity, reparse_verdict, score_pairs
from tapir_exp.llm.chat import ChatRequest, Completion, TokenLogprob

BOTH = JudgeConfig(llm=LLMConfig(model="m", concurrency=1))
ONE = JudgeConfig(llm=LLMConfig(model="m", concurrency=1), swap_positions=False)


def match(row: str = "a", teacher: float = 8, student: float = 5) -> ResponsePair:
    return ResponsePair(row, f"instruction {row}", f"teacher's, worth {teacher}", f"student's, worth {student}")


def worth(text: str) -> float:
    found = re.search(r"worth (\S+)", text)
    assert found
    return float(found[1])


def biased(by: float) -> Callable[[ChatRequest], str]:
    """A judge that sees what a response is worth and adds `by` points to the first shown."""

    def say(request: ChatRequest) -> str:
        first, second = (worth(tagged(said_to(request), f"assistant_{place}")[0]) for place in (1, 2))
        return f"{first + by} {second}\nBecause 9 is more than 3."

    return say


def failing(at: int, said: Said) -> Callable[[ChatRequest], Said]:
    """A fair judge but for its call number `at` and all that repeat it."""
    seen: list[str] = []

    def say(request: ChatRequest) -> Said:
        if said_to(request) not in seen:
            seen.append(said_to(request))
        return said if seen.index(said_to(request)) == at else biased(0)(request)

    return say


def test_both_orders_are_asked() -> None:
    chat = ScriptedChat(biased(0))
    score_pairs([match("a"), match("b")], chat, BOTH, "judging")
    shown = [[tagged(said_to(request), f"assistant_{place}")[0][:7] for place in (1, 2)] for request in chat.requests]
    assert shown == [["teacher", "student"], ["student", "teacher"]] * 2
    assert [tagged(said_to(request), "instruction") for request in chat.requests] == [
        [f"instruction {row}"] for row in "aabb"
    ]


@pytest.mark.parametrize("by", [0.0, 1.0, 2.0, -1.5])
def test_the_bias_of_the_order_cancels_in_the_gap(by: float) -> None:
    (verdict,) = score_pairs([match(teacher=7, student=4)], ScriptedChat(biased(by)), BOTH, "judging")
    assert verdict.gap == 3
    assert (verdict.teacher, verdict.student) == (7 + by / 2, 4 + by / 2)


def test_one_order_alone_carries_the_bias() -> None:
    chat = ScriptedChat(biased(1))
    (verdict,) = score_pairs([match(teacher=7, student=4)], chat, ONE, "judging")
    assert verdict.gap == 4
    assert len(chat.requests) == len(verdict.replies) == 1
    assert verdict.replies[0].order is PresentationOrder.TEACHER_FIRST


def test_scores_are_given_back_to_whom_they_belong() -> None:
    (verdict,) = score_pairs([match(teacher=9, student=2)], ScriptedChat(biased(1)), BOTH, "judging")
    assert [(ballot.order, ballot.teacher, ballot.student) for ballot in verdict.replies] == [
        (PresentationOrder.TEACHER_FIRST, 10, 2),
        (PresentationOrder.STUDENT_FIRST, 9, 3),
    ]
    assert [ballot.raw for ballot in verdict.replies] == [
        "10.0 2.0\nBecause 9 is more than 3.",
        "3.0 9.0\nBecause 9 is more than 3.",
    ]


def test_verdicts_come_in_the_order_of_the_matches() -> None:
    matches = [match(str(n), teacher=8, student=1 + n) for n in range(7)]
    verdicts = score_pairs(matches, ScriptedChat(biased(1)), BOTH, "judging")
    assert [(verdict.id, verdict.gap) for verdict in verdicts] == [(str(n), 7 - n) for n in range(7)]


def test_a_cut_reply_is_asked_for_again() -> None:
    chat = ScriptedChat([reply_of("8 1", finish_reason="length"), "8 10", "10 8"])
    (verdict,) = score_pairs([match()], chat, BOTH, "judging")
    assert (verdict.teacher, verdict.student) == (8, 10)
    assert [request.max_tokens for request in chat.requests[:2]] == [BOTH.max_tokens, 2 * BOTH.max_tokens]


def test_a_refused_reply_is_asked_again_once_with_the_error_named() -> None:
    chat = ScriptedChat(["8/10 and 6/10", "8 6", "5 7"])
    (verdict,) = score_pairs([match()], chat, BOTH, "judging")
    assert (verdict.teacher, verdict.student) == (7.5, 5.5)
    asked, again, _ = chat.requests
    assert again.messages[:-2] == asked.messages
    assert [message.role for message in again.messages] == ["user", "assistant", "user"]
    assert again.messages[1].content == "8/10 and 6/10"
    assert "two scores and nothing else, but it is '8/10 and 6/10'" in again.messages[2].content


def test_a_reply_refused_twice_is_not_asked_a_third_time() -> None:
    chat = ScriptedChat(["?", "??", "5 7"])
    (verdict,) = score_pairs([match()], chat, JudgeConfig(llm=BOTH.llm, max_failure_rate=0.5), "judging")
    assert len(chat.requests) == 3
    assert verdict.replies[0].raw == "??"


@pytest.mark.parametrize("said", ["I cannot say.", time_out()])
@pytest.mark.parametrize("at", [0, 1])
def test_a_match_that_lacks_a_ballot_is_unscored_and_says_why(at: int, said: Said) -> None:
    config = JudgeConfig(llm=BOTH.llm, max_failure_rate=0.25)
    unscored, scored = score_pairs([match("a"), match("b")], ScriptedChat(failing(at, said)), config, "judging")
    assert (unscored.teacher, unscored.student, unscored.gap) == (None, None, None)
    lost, kept = unscored.replies[at], unscored.replies[1 - at]
    assert (lost.teacher, lost.student) == (None, None)
    assert lost.failure
    assert ("unreadable reply" if isinstance(said, str) else "time-out: no reply in 1 s") in lost.failure
    assert lost.raw == (said if isinstance(said, str) else "")
    assert (kept.teacher, kept.student, kept.failure) == (8, 5, None)
    assert scored.gap == 3


def test_too_many_missing_ballots_stop_the_stage_with_a_table_of_reasons() -> None:
    matches = [match(row) for row in "abcd"]
    replies: list[Said] = [*["8 6"] * 5, time_out(), time_out(), "95 3", "95 3"]
    with pytest.raises(TooManyFailures) as caught:
        score_pairs(matches, ScriptedChat(replies), JudgeConfig(llm=BOTH.llm, max_failure_rate=0.2), "judging S_0")
    head, first, second, tail = str(caught.value).split("\n")
    assert head == "judging S_0: 3 of 8 rows failed, more than the allowed 20.0%:"
    assert first.split(None, 1) == ["2", "time-out: no reply in 1 s"]
    assert second.split(None, 1)[0] == "1"
    assert "Scores go from 1 to 10" in second
    assert "max_failure_rate" in tail


def test_just_as_many_as_allowed_may_be_missing() -> None:
    replies: list[Said] = [*["8 6"] * 6, time_out(), time_out()]
    verdicts = score_pairs(
        [match(row) for row in "abcd"], ScriptedChat(replies), JudgeConfig(llm=BOTH.llm, max_failure_rate=0.25), ""
    )
    assert [verdict.gap for verdict in verdicts[:3]] == [0, 0, 0]
    assert verdicts[3].gap is None


def test_nothing_to_judge_is_no_verdict() -> None:
    assert score_pairs([], ScriptedChat([]), BOTH, "judging") == []


def test_a_verdict_is_the_mean_of_its_ballots() -> None:
    replies = [
        JudgeReply(order=PresentationOrder.TEACHER_FIRST, teacher=9, student=4, raw=""),
        JudgeReply(order=PresentationOrder.STUDENT_FIRST, teacher=8, student=5, raw=""),
    ]
    assert build_verdict("a", replies) == Verdict(id="a", replies=tuple(replies), teacher=8.5, student=4.5)


SINGLE = JudgeConfig(llm=BOTH.llm, protocol=JudgeProtocol.single_score)
LOGPROBS = JudgeConfig(llm=BOTH.llm, protocol=JudgeProtocol.pair_logprobs)


def alone(request: ChatRequest) -> str:
    (answer,) = tagged(said_to(request), "answer")
    return f"{worth(answer)}\nThat is what it is worth."


def test_single_scores_are_asked_and_given_one_by_one() -> None:
    verdicts = score_pairs([match("a", 8, 5), match("b", 6, 7.5)], ScriptedChat(alone), SINGLE, "judging")
    assert [(verdict.teacher, verdict.student, verdict.gap) for verdict in verdicts] == [(8, 5, 3), (6, 7.5, -1.5)]
    assert [(ballot.order, ballot.teacher, ballot.student) for ballot in verdicts[0].replies] == [
        (PresentationOrder.TEACHER_ALONE, 8, None),
        (PresentationOrder.STUDENT_ALONE, None, 5),
    ]


def test_a_single_score_that_is_missing_leaves_the_match_unscored() -> None:
    chat = ScriptedChat(["8", "I cannot.", "I cannot.", "7", "6"])
    config = JudgeConfig(llm=BOTH.llm, protocol=JudgeProtocol.single_score, max_failure_rate=0.25)
    lost, kept = score_pairs([match("a"), match("b")], chat, config, "judging")
    assert (lost.teacher, lost.student, lost.gap) == (None, None, None)
    assert (lost.replies[0].teacher, lost.replies[1].raw) == (8, "I cannot.")
    assert kept.gap == 1


def leaning(share: float, bias: float = 0.0) -> Callable[[ChatRequest], Completion]:
    """A judge that prefers the teacher with this probability, and the first place by `bias` on top."""

    def say(request: ChatRequest) -> Completion:
        first = tagged(said_to(request), "assistant_1")[0]
        one = (share if first.startswith("teacher") else 1 - share) + bias
        chances = (("1", one), ("2", 1 - one))
        top = tuple(TokenLogprob(token=token, logprob=log(chance)) for token, chance in chances)
        return reply_of("1" if one >= 0.5 else "2", "length").model_copy(update={"top_logprobs": (top,)})

    return say


@pytest.mark.parametrize("share", [0.5, 0.75, 0.2])
@pytest.mark.parametrize("bias", [0.0, 0.1])
def test_a_preference_becomes_a_gap_from_minus_nine_to_nine_in_which_the_place_cancels(
    share: float, bias: float
) -> None:
    (verdict,) = score_pairs([match()], ScriptedChat(leaning(share, bias)), LOGPROBS, "judging")
    assert verdict.gap == pytest.approx(9 * (2 * share - 1))
    assert verdict.teacher is not None
    assert verdict.student is not None
    assert verdict.teacher + verdict.student == pytest.approx(11)


def test_a_ballot_keeps_all_that_a_reader_reads() -> None:
    (verdict,) = score_pairs([match()], ScriptedChat(leaning(0.75)), LOGPROBS, "judging")
    assert {(ballot.raw, ballot.finish_reason) for ballot in verdict.replies} == {("1", "length"), ("2", "length")}
    assert dict(verdict.replies[0].first_token) == pytest.approx({"1": log(0.75), "2": log(0.25)})
    chat = ScriptedChat(["Hm.", "8 6\nWell.", "5 7", "7 5"])
    (again,) = score_pairs([match()], chat, BOTH, "judging")
    assert [(ballot.raw, ballot.finish_reason) for ballot in again.replies] == [("8 6\nWell.", "stop"), ("5 7", "stop")]


def test_a_ballot_without_a_reply_says_so() -> None:
    config = JudgeConfig(llm=BOTH.llm, max_failure_rate=0.5)
    (verdict,) = score_pairs([match()], ScriptedChat([time_out(), "7 5"]), config, "judging")
    assert [(ballot.raw, ballot.finish_reason) for ballot in verdict.replies] == [("", None), ("7 5", "stop")]


@pytest.mark.parametrize(("config", "script"), [(BOTH, biased(1)), (SINGLE, alone), (LOGPROBS, leaning(0.75))])
def test_what_is_read_again_by_the_same_reader_is_the_same(
    config: JudgeConfig, script: Callable[[ChatRequest], Said]
) -> None:
    verdicts = score_pairs([match("a"), match("b", 7, 7)], ScriptedChat(script), config, "judging")
    assert [reparse_verdict(verdict, config.protocol) for verdict in verdicts] == verdicts


def test_another_reader_reads_kept_replies_for_nothing() -> None:
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
    assert [ballot.failure for ballot in verdict.replies] == [None, None]


@pytest.mark.parametrize(("raw", "finish_reason"), [("8 1", "length"), ("8/10 6/10", "stop")])
def test_a_reply_that_the_present_reader_refuses_leaves_the_row_unscored(raw: str, finish_reason: str) -> None:
    read = JudgeReply(order=PresentationOrder.TEACHER_FIRST, teacher=8, student=1, raw=raw, finish_reason=finish_reason)
    verdict = reparse_verdict(build_verdict("a", [read]), JudgeProtocol.pair_scores)
    assert (verdict.gap, verdict.replies[0].teacher) == (None, None)
    assert (verdict.replies[0].failure or "").startswith("unreadable reply: ")


def test_what_never_came_stays_missing() -> None:
    lost = JudgeReply(
        order=PresentationOrder.TEACHER_FIRST, teacher=None, student=None, raw="", failure="time-out: 9 s"
    )
    assert reparse_verdict(build_verdict("a", [lost]), JudgeProtocol.pair_scores) == build_verdict("a", [lost])


def test_complexity_is_rated_from_the_instruction_alone() -> None:
    chat = ScriptedChat(["7\nMany steps.", "Hm.", "Hm?", "1"])
    config = JudgeConfig(llm=BOTH.llm, max_failure_rate=0.3)
    rated = rate_complexity([("a", "Prove it."), ("b", "Hm"), ("c", "Hi")], chat, config, "rating")
    assert [(rating.id, rating.complexity) for rating in rated] == [("a", 7), ("b", None), ("c", 1)]
    assert rated[0].raw == "7\nMany steps."
    assert "one score" in (rated[1].failure or "")
    assert tagged(said_to(chat.requests[0]), "instruction") == ["Prove it."]
