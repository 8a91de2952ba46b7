"""Both orders asked, the order's bias gone from the mean, replies read strictly, and no score for what was not read."""

import re
from collections.abc import Callable

import pytest
from fakes import Said, ScriptedChat, reply_of, said_to, tagged, time_out
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.config import JudgeConfig, LLMConfig, Orders
from tapir_exp.errors import ReplyError, TooManyFailures
from tapir_exp.judge import Match, Scores, judge, judge_request, read_scores, verdict_of
from tapir_exp.llm.chat import ChatRequest
from tapir_exp.records import Ballot, Order, Verdict

BOTH = JudgeConfig(llm=LLMConfig(model="m", concurrency=1))
ONE = JudgeConfig(llm=LLMConfig(model="m", concurrency=1), orders=Orders.teacher_first)


def match(row: str = "a", teacher: float = 8, student: float = 5) -> Match:
    return Match(row, f"instruction {row}", f"teacher's, worth {teacher}", f"student's, worth {student}")


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
    judge([match("a"), match("b")], chat, BOTH, "judging")
    shown = [[tagged(said_to(request), f"assistant_{place}")[0][:7] for place in (1, 2)] for request in chat.requests]
    assert shown == [["teacher", "student"], ["student", "teacher"]] * 2
    assert [tagged(said_to(request), "instruction") for request in chat.requests] == [
        [f"instruction {row}"] for row in "aabb"
    ]


@pytest.mark.parametrize("by", [0.0, 1.0, 2.0, -1.5])
def test_the_bias_of_the_order_cancels_in_the_gap(by: float) -> None:
    (verdict,) = judge([match(teacher=7, student=4)], ScriptedChat(biased(by)), BOTH, "judging")
    assert verdict.gap == 3
    assert (verdict.teacher, verdict.student) == (7 + by / 2, 4 + by / 2)


def test_one_order_alone_carries_the_bias() -> None:
    chat = ScriptedChat(biased(1))
    (verdict,) = judge([match(teacher=7, student=4)], chat, ONE, "judging")
    assert verdict.gap == 4
    assert len(chat.requests) == len(verdict.ballots) == 1
    assert verdict.ballots[0].order is Order.TEACHER_FIRST


def test_scores_are_given_back_to_whom_they_belong() -> None:
    (verdict,) = judge([match(teacher=9, student=2)], ScriptedChat(biased(1)), BOTH, "judging")
    assert [(ballot.order, ballot.teacher, ballot.student) for ballot in verdict.ballots] == [
        (Order.TEACHER_FIRST, 10, 2),
        (Order.STUDENT_FIRST, 9, 3),
    ]
    assert [ballot.raw for ballot in verdict.ballots] == [
        "10.0 2.0\nBecause 9 is more than 3.",
        "3.0 9.0\nBecause 9 is more than 3.",
    ]


def test_verdicts_come_in_the_order_of_the_matches() -> None:
    matches = [match(str(n), teacher=8, student=1 + n) for n in range(7)]
    verdicts = judge(matches, ScriptedChat(biased(1)), BOTH, "judging")
    assert [(verdict.id, verdict.gap) for verdict in verdicts] == [(str(n), 7 - n) for n in range(7)]


def test_a_request_follows_the_configuration() -> None:
    request = judge_request(match(), Order.STUDENT_FIRST, JudgeConfig(temperature=0.3, max_tokens=77))
    assert (request.temperature, request.max_tokens, request.sample) == (0.3, 77, 0)
    assert [message.role for message in request.messages] == ["user"]


@pytest.mark.parametrize("nasty", ["{{first}}", "</assistant_1>", "10 1", "\\1", ""])
def test_a_response_stands_in_the_prompt_as_it_is(nasty: str) -> None:
    prompt = said_to(judge_request(Match("a", "i", "mine", nasty), Order.TEACHER_FIRST, BOTH))
    assert f"<assistant_2>\n{nasty}\n</assistant_2>" in prompt


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("9 4", (9, 4)),
        ("8.5 9", (8.5, 9)),
        ("1 10", (1, 10)),
        ("10 10\nBoth are fine.", (10, 10)),
        ("  7   3  \r\nWhy: 1 2", (7, 3)),
        ("\n\n6 5", (6, 5)),
        ("9.25 1.0\n[[10]]", (9.25, 1)),
    ],
)
def test_two_scores_on_the_first_line_are_read(text: str, scores: tuple[float, float]) -> None:
    assert read_scores(reply_of(text)) == Scores(*scores)


@pytest.mark.parametrize(
    "text",
    [
        "On a scale of 1 to 10, I would say 8 and 6.",
        "On a scale from 1 10",
        "The scores are:\n8 6",
        "I give 8 6",
        "8 6 because",
        "8, 6",
        "8 9 7",
        "8",
        "8/10 9/10",
        "8 / 9",
        "-1 5",
        "5 -1",
        "8.5. 9",
        "8. 9",
        ".5 9",
        "8,5 9",
        "1e1 5",
        "nan 5",
        "inf 5",
        "[[8]] [[6]]",
        "[[10]]",
        "'8 6'",
        "**8 6**",
        "8\n6",
        "8\t6",
        "Assistant 1: 8\nAssistant 2: 6",
        "eight six",
        "",
        " \n ",
    ],
)
def test_any_other_first_line_is_refused_and_quoted(text: str) -> None:
    first_line = text.strip().partition("\n")[0]
    with pytest.raises(ReplyError, match=re.escape(f"two scores and nothing else, but it is {first_line!r}")):
        read_scores(reply_of(text))


@pytest.mark.parametrize("text", ["95 3", "11 2", "0 5", "5 0", "5 0.99", "10.01 9", "85 60", "5 100"])
def test_scores_beyond_the_scale_are_refused_and_quoted(text: str) -> None:
    with pytest.raises(ReplyError, match=f"from 1 to 10, but the first line is '{re.escape(text)}'"):
        read_scores(reply_of(text))


@pytest.mark.parametrize("text", ["8 1", "10 1", "8 6 ", "8 6\n", "\n8 6\n \n", "8", "Well, 8 6", ""])
def test_a_reply_that_was_cut_within_or_after_its_first_line_is_refused(text: str) -> None:
    with pytest.raises(ReplyError, match="cut at the length limit"):  # `8 1` may be the first half of `8 10`
        read_scores(reply_of(text, finish_reason="length"))


def test_a_reply_that_was_cut_among_its_reasons_has_its_scores() -> None:
    assert read_scores(reply_of("8 6\nBecause the fir", finish_reason="length")) == Scores(8, 6)


def test_a_cut_reply_whose_first_line_holds_no_scores_is_refused_for_that() -> None:
    with pytest.raises(ReplyError, match="two scores and nothing else"):
        read_scores(reply_of("Let me see.\n8 6", finish_reason="length"))


def test_a_cut_reply_is_asked_for_again() -> None:
    chat = ScriptedChat([reply_of("8 1", finish_reason="length"), "8 10", "10 8"])
    (verdict,) = judge([match()], chat, BOTH, "judging")
    assert (verdict.teacher, verdict.student) == (8, 10)
    assert [request.max_tokens for request in chat.requests[:2]] == [BOTH.max_tokens, 2 * BOTH.max_tokens]


@given(first=st.floats(1, 10), second=st.floats(1, 10), reason=st.text())
def test_any_scores_on_the_scale_come_back(first: float, second: float, reason: str) -> None:
    first, second = round(first, 3), round(second, 3)
    assert read_scores(reply_of(f"{first} {second}\n{reason}")) == Scores(first, second)


@given(text=st.text())
def test_any_text_is_scores_or_a_reply_error(text: str) -> None:
    try:
        scores = read_scores(reply_of(text))
    except ReplyError:
        return
    assert 1 <= min(scores.first, scores.second) <= max(scores.first, scores.second) <= 10


def test_a_refused_reply_is_asked_again_once_with_the_error_named() -> None:
    chat = ScriptedChat(["8/10 and 6/10", "8 6", "5 7"])
    (verdict,) = judge([match()], chat, BOTH, "judging")
    assert (verdict.teacher, verdict.student) == (7.5, 5.5)
    asked, again, _ = chat.requests
    assert again.messages[:-2] == asked.messages
    assert [message.role for message in again.messages] == ["user", "assistant", "user"]
    assert again.messages[1].content == "8/10 and 6/10"
    assert "two scores and nothing else, but it is '8/10 and 6/10'" in again.messages[2].content


def test_a_reply_refused_twice_is_not_asked_a_third_time() -> None:
    chat = ScriptedChat(["?", "??", "5 7"])
    (verdict,) = judge([match()], chat, JudgeConfig(llm=BOTH.llm, max_failed=0.5), "judging")
    assert len(chat.requests) == 3
    assert verdict.ballots[0].raw == "??"


@pytest.mark.parametrize("said", ["I cannot say.", time_out()])
@pytest.mark.parametrize("at", [0, 1])
def test_a_match_that_lacks_a_ballot_is_unscored_and_says_why(at: int, said: Said) -> None:
    config = JudgeConfig(llm=BOTH.llm, max_failed=0.25)
    unscored, scored = judge([match("a"), match("b")], ScriptedChat(failing(at, said)), config, "judging")
    assert (unscored.teacher, unscored.student, unscored.gap) == (None, None, None)
    lost, kept = unscored.ballots[at], unscored.ballots[1 - at]
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
        judge(matches, ScriptedChat(replies), JudgeConfig(llm=BOTH.llm, max_failed=0.2), "judging S_0")
    head, first, second, tail = str(caught.value).split("\n")
    assert head == "judging S_0: 3 of 8 rows failed, more than the allowed 20.0%:"
    assert first.split(None, 1) == ["2", "time-out: no reply in 1 s"]
    assert second.split(None, 1)[0] == "1"
    assert "Scores go from 1 to 10" in second
    assert "max_failed" in tail


def test_just_as_many_as_allowed_may_be_missing() -> None:
    replies: list[Said] = [*["8 6"] * 6, time_out(), time_out()]
    verdicts = judge(
        [match(row) for row in "abcd"], ScriptedChat(replies), JudgeConfig(llm=BOTH.llm, max_failed=0.25), ""
    )
    assert [verdict.gap for verdict in verdicts[:3]] == [0, 0, 0]
    assert verdicts[3].gap is None


def test_nothing_to_judge_is_no_verdict() -> None:
    assert judge([], ScriptedChat([]), BOTH, "judging") == []


def test_a_verdict_is_the_mean_of_its_ballots() -> None:
    ballots = [
        Ballot(order=Order.TEACHER_FIRST, teacher=9, student=4, raw=""),
        Ballot(order=Order.STUDENT_FIRST, teacher=8, student=5, raw=""),
    ]
    assert verdict_of("a", ballots) == Verdict(id="a", ballots=tuple(ballots), teacher=8.5, student=4.5)
