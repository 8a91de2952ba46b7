"""Asking many things at once: order, concurrency, the second chance, and when to stop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tapir_exp.errors import ConfigError, ReplyError, TooManyFailures
from tapir_exp.llm.ask import ask_all
from tapir_exp.llm.chat import ChatRequest, Message, Reply, Usage
from tapir_exp.llm.failures import CallError, FailureKind


class Scripted:
    """A chat model that says what `answer` makes of the conversation; an exception is raised."""

    def __init__(self, answer: Callable[[ChatRequest], str | Exception], delay: Callable[[int], float] = lambda _: 0):
        self.answer, self.delay = answer, delay
        self.asked: list[ChatRequest] = []
        self.given_up: list[CallError] = []
        self.flying = self.most_flying = 0

    def identity(self) -> dict[str, Any]:
        return {"model": "scripted"}

    @asynccontextmanager
    async def connected(self, requests: Sequence[ChatRequest]) -> AsyncIterator[None]:
        yield

    def count_cached(self, requests: Sequence[ChatRequest]) -> int:
        return 0

    def give_up(self, request: ChatRequest, error: CallError) -> None:
        self.given_up.append(error)

    async def reply(self, request: ChatRequest) -> Reply:
        self.asked.append(request)
        self.flying += 1
        self.most_flying = max(self.most_flying, self.flying)
        await asyncio.sleep(self.delay(len(self.asked)))
        self.flying -= 1
        said = self.answer(request)
        if isinstance(said, Exception):
            raise said
        return Reply(text=said, finish_reason="stop", usage=Usage(prompt_tokens=1, completion_tokens=1, usd=0.0))


def requests(*questions: str) -> list[ChatRequest]:
    return [ChatRequest(messages=(Message(role="user", content=text),), max_tokens=5) for text in questions]


def a_number(reply: Reply) -> int:
    try:
        return int(reply.text)
    except ValueError:
        raise ReplyError(f"{reply.text!r} is no number.") from None


def ask(chat: Scripted, *questions: str, max_failed: float = 1.0, concurrency: int = 4) -> list[Any]:
    return ask_all(
        chat, requests(*questions), a_number, label="numbers", concurrency=concurrency, max_failed=max_failed
    )


def echo(request: ChatRequest) -> str:
    return request.messages[0].content


def test_outcomes_come_in_the_order_of_the_requests() -> None:
    chat = Scripted(echo, delay=lambda n: 0.02 / n)
    assert [outcome.value for outcome in ask(chat, *map(str, range(9)))] == list(range(9))


def test_exactly_so_many_calls_are_in_flight() -> None:
    chat = Scripted(echo, delay=lambda _: 0.001)
    ask(chat, *map(str, range(20)), concurrency=3)
    assert chat.most_flying == 3


def test_an_unreadable_reply_is_shown_to_the_model_with_the_complaint() -> None:
    chat = Scripted(lambda request: "7" if len(request.messages) > 1 else "seven")
    (outcome,) = ask(chat, "Three and four?")
    assert (outcome.value, outcome.raw, outcome.failure) == (7, "7", None)
    again = chat.asked[1]
    assert [message.role for message in again.messages] == ["user", "assistant", "user"]
    assert again.messages[1].content == "seven"
    assert "'seven' is no number." in again.messages[2].content
    assert again.max_tokens == 5


def test_a_reply_unreadable_twice_is_a_failure_that_keeps_the_last_one_raw() -> None:
    chat = Scripted(lambda request: "VII" if len(request.messages) > 1 else "seven")
    (outcome,) = ask(chat, "Three and four?")
    assert outcome.value is None
    assert outcome.raw == "VII"
    assert outcome.failure == "unreadable reply: 'VII' is no number."
    assert len(chat.asked) == 2


def test_a_failed_call_is_a_failure_with_its_reason() -> None:
    chat = Scripted(lambda request: CallError(FailureKind.TIMEOUT, "slow") if echo(request) == "bad" else "1")
    good, bad = ask(chat, "good", "bad")
    assert good.value == 1
    assert (bad.value, bad.raw, bad.failure) == (None, "", "time-out: slow")


def test_the_first_reply_is_kept_raw_where_the_second_call_fails() -> None:
    chat = Scripted(lambda request: CallError(FailureKind.EMPTY, "") if len(request.messages) > 1 else "seven")
    (outcome,) = ask(chat, "Three and four?")
    assert (outcome.raw, outcome.failure) == ("seven", "empty reply: ")


def fails_on_words(request: ChatRequest) -> str | Exception:
    return echo(request) if echo(request).isdigit() else CallError(FailureKind.REFUSED, echo(request))


def test_as_many_failures_as_allowed_pass() -> None:
    outcomes = ask(Scripted(fails_on_words), "1", "2", "3", "no", max_failed=0.25)
    assert [outcome.value for outcome in outcomes] == [1, 2, 3, None]


@pytest.mark.parametrize("max_failed", [0.01, 0.2, 0.25])
@pytest.mark.parametrize("asked", [1, 2, 4])
def test_one_failure_in_a_handful_stops_nothing(asked: int, max_failed: float) -> None:
    outcomes = ask(Scripted(fails_on_words), *["1"] * (asked - 1), "no", max_failed=max_failed)
    assert [outcome.value for outcome in outcomes] == [1] * (asked - 1) + [None]


@pytest.mark.parametrize(
    ("asked", "max_failed", "allowed"), [(4, 0.3, 2), (10, 0.2, 2), (10, 0.21, 3), (100, 0.02, 2), (3, 1.0, 3)]
)
def test_the_allowed_share_is_rounded_up_to_a_whole_request(asked: int, max_failed: float, allowed: int) -> None:
    def said(failed: int) -> list[Any]:
        questions = ["no"] * failed + ["1"] * (asked - failed)
        return ask(Scripted(fails_on_words), *questions, max_failed=max_failed)

    assert sum(outcome.failure is not None for outcome in said(allowed)) == allowed
    if allowed < asked:
        with pytest.raises(TooManyFailures, match=f"{allowed + 1} of {asked} rows failed"):
            said(allowed + 1)


def test_where_none_may_fail_one_failure_stops_the_stage() -> None:
    with pytest.raises(TooManyFailures, match="1 of 9 rows failed"):
        ask(Scripted(fails_on_words), *map(str, range(8)), "no", max_failed=0.0)


def test_more_failures_than_allowed_stop_the_stage_with_a_table() -> None:
    with pytest.raises(TooManyFailures) as caught:
        ask(Scripted(fails_on_words), "1", "once", "twice", "twice", max_failed=0.5)
    lines = str(caught.value).splitlines()
    assert lines[0] == "numbers: 3 of 4 rows failed, more than the allowed 50.0%:"
    assert [line.split() for line in lines[1:3]] == [
        ["2", "request", "refused:", "twice"],
        ["1", "request", "refused:", "once"],
    ]


def test_an_error_of_the_configuration_arrives_as_it_is() -> None:
    with pytest.raises(ConfigError, match="KEY is not set"):
        ask(Scripted(lambda _: ConfigError(["KEY is not set"])), "1", "2", "3")


def test_nothing_asked_is_nothing_failed() -> None:
    assert ask(Scripted(echo), max_failed=0.0) == []


def test_a_second_call_works_on_a_fresh_event_loop() -> None:
    chat = Scripted(echo)
    assert [ask(chat, "1")[0].value, ask(chat, "2")[0].value] == [1, 2]
