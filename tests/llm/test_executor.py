"""Asking many things at once: order, concurrency, the second chance, and when to stop."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from loopback import Server

from tapir_exp.config import SpendConfig
from tapir_exp.core.errors import ConfigError, ReplyError, TooManyFailures
from tapir_exp.llm import executor as asking
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Completion, Message, Usage
from tapir_exp.llm.executor import RequestResult, run_request_stream, run_requests
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.ledger import SpendScope


class Scripted:
    """A chat model that says what `answer` makes of the conversation; an exception is raised."""

    def __init__(
        self, answer: Callable[[ChatRequest], str | Completion | Exception], delay: Callable[[int], float] = lambda _: 0
    ) -> None:
        self.answer, self.delay = answer, delay
        self.asked: list[ChatRequest] = []
        self.given_up: list[tuple[ChatRequest, CallError]] = []
        self.flying = self.most_flying = 0

    def identity(self) -> dict[str, Any]:
        return {"model": "scripted"}

    @asynccontextmanager
    async def connected(self, requests: Sequence[ChatRequest]) -> AsyncIterator[None]:
        yield

    def count_cached(self, requests: Sequence[ChatRequest]) -> int:
        return 0

    def record_failed(self, request: ChatRequest, error: CallError) -> None:
        self.given_up.append((request, error))

    async def complete(self, request: ChatRequest) -> Completion:
        self.asked.append(request)
        self.flying += 1
        self.most_flying = max(self.most_flying, self.flying)
        await asyncio.sleep(self.delay(len(self.asked)))
        self.flying -= 1
        said = self.answer(request)
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, Completion) else a_reply(said)


def a_reply(text: str, finish_reason: str = "stop") -> Completion:
    usage = Usage(prompt_tokens=1, completion_tokens=1, usd=0.0)
    return Completion(text=text, finish_reason=finish_reason, usage=usage)


def requests(*questions: str) -> list[ChatRequest]:
    return [ChatRequest(messages=(Message(role="user", content=text),), max_tokens=5) for text in questions]


def a_number(reply: Completion) -> int:
    try:
        return int(reply.text)
    except ValueError:
        raise ReplyError(f"{reply.text!r} is no number.") from None


def ask(chat: Scripted, *questions: str, max_failure_rate: float = 1.0, concurrency: int = 4) -> list[Any]:
    return run_requests(
        chat,
        requests(*questions),
        a_number,
        label="numbers",
        concurrency=concurrency,
        max_failure_rate=max_failure_rate,
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
    outcomes = ask(Scripted(fails_on_words), "1", "2", "3", "no", max_failure_rate=0.25)
    assert [outcome.value for outcome in outcomes] == [1, 2, 3, None]


@pytest.mark.parametrize("max_failure_rate", [0.01, 0.2, 0.25])
@pytest.mark.parametrize("asked", [1, 2, 4])
def test_one_failure_in_a_handful_stops_nothing(asked: int, max_failure_rate: float) -> None:
    outcomes = ask(Scripted(fails_on_words), *["1"] * (asked - 1), "no", max_failure_rate=max_failure_rate)
    assert [outcome.value for outcome in outcomes] == [1] * (asked - 1) + [None]


@pytest.mark.parametrize(
    ("asked", "max_failure_rate", "allowed"), [(4, 0.3, 2), (10, 0.2, 2), (10, 0.21, 3), (100, 0.02, 2), (3, 1.0, 3)]
)
def test_the_allowed_share_is_rounded_up_to_a_whole_request(asked: int, max_failure_rate: float, allowed: int) -> None:
    def said(failed: int) -> list[Any]:
        questions = ["no"] * failed + ["1"] * (asked - failed)
        return ask(Scripted(fails_on_words), *questions, max_failure_rate=max_failure_rate)

    assert sum(outcome.failure is not None for outcome in said(allowed)) == allowed
    if allowed < asked:
        with pytest.raises(TooManyFailures, match=f"{allowed + 1} of {asked} rows failed"):
            said(allowed + 1)


def test_where_none_may_fail_one_failure_stops_the_stage() -> None:
    with pytest.raises(TooManyFailures, match="1 of 9 rows failed"):
        ask(Scripted(fails_on_words), *map(str, range(8)), "no", max_failure_rate=0.0)


def test_more_failures_than_allowed_stop_the_stage_with_a_table() -> None:
    with pytest.raises(TooManyFailures) as caught:
        ask(Scripted(fails_on_words), "1", "once", "twice", "twice", max_failure_rate=0.5)
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
    assert ask(Scripted(echo), max_failure_rate=0.0) == []


def test_a_second_call_works_on_a_fresh_event_loop() -> None:
    chat = Scripted(echo)
    assert [ask(chat, "1")[0].value, ask(chat, "2")[0].value] == [1, 2]


def all_of_it(reply: Completion) -> int:
    if reply.finish_reason == "length":
        raise ReplyError("The reply was cut.")
    return a_number(reply)


def ask_for_all_of_it(chat: Scripted, *questions: str) -> list[RequestResult[int]]:
    return run_requests(chat, requests(*questions), all_of_it, label="numbers", concurrency=4, max_failure_rate=1.0)


def test_a_cut_reply_is_asked_again_with_twice_the_room() -> None:
    chat = Scripted(
        lambda request: a_reply("12345678"[: request.max_tokens], "stop" if request.max_tokens >= 8 else "length")
    )
    (outcome,) = ask_for_all_of_it(chat, "Count.")
    assert (outcome.value, outcome.raw, outcome.failure) == (12345678, "12345678", None)
    assert [request.max_tokens for request in chat.asked] == [5, 10]
    assert chat.asked[1].messages == chat.asked[0].messages
    assert chat.given_up == []


def test_a_reply_cut_twice_is_given_up_as_cut() -> None:
    chat = Scripted(lambda request: a_reply("1" * request.max_tokens, "length"))
    (outcome,) = ask_for_all_of_it(chat, "Count.")
    assert (outcome.value, outcome.raw) == (None, "1" * 10)
    assert outcome.failure == "cut at the length limit: The reply was cut."
    assert len(chat.asked) == 2
    ((request, error),) = chat.given_up
    assert (request.max_tokens, error.kind, error.raw) == (10, FailureKind.CUT, "1" * 10)


def test_a_cut_reply_that_can_be_read_is_kept() -> None:
    chat = Scripted(lambda _: a_reply("12", "length"))
    assert [outcome.value for outcome in ask(chat, "Count.")] == [12]
    assert len(chat.asked) == 1


def test_what_is_given_up_is_told_with_its_reason_and_its_last_words() -> None:
    said: dict[str, str | Exception] = {
        "fine": "7",
        "words": "seven",
        "down": CallError(FailureKind.TIMEOUT, "slow"),
        "filtered": CallError(FailureKind.FILTERED, "stopped", raw="I sh"),
    }
    chat = Scripted(lambda request: said[echo(request)])
    ask(chat, *said, concurrency=1)
    told = [(echo(request), error.kind, error.detail, error.raw) for request, error in chat.given_up]
    assert told == [
        ("words", FailureKind.UNREADABLE, "'seven' is no number.", "seven"),
        ("down", FailureKind.TIMEOUT, "slow", ""),
        ("filtered", FailureKind.FILTERED, "stopped", "I sh"),
    ]


def test_the_stage_stops_as_soon_as_too_many_have_failed() -> None:
    chat = Scripted(fails_on_words)
    with pytest.raises(TooManyFailures, match=r"numbers: 1[1-4] of 1000 rows failed") as caught:
        ask(chat, *["no"] * 1000, max_failure_rate=0.01)
    assert len(chat.asked) <= 11 + 4
    assert " rows were asked; what was answered is kept." in str(caught.value)


def test_what_is_in_flight_lands_before_an_error_is_raised() -> None:
    def said(request: ChatRequest) -> str | Exception:
        return ConfigError(["KEY is not set"]) if echo(request) == "bad" else echo(request)

    chat = Scripted(said, delay=lambda n: 0.0 if n == 1 else 0.1)
    heard: dict[int, Any] = {}
    with pytest.raises(ConfigError):
        each(chat, requests("bad", *map(str, range(20))), heard.__setitem__, concurrency=4)
    assert [outcome.value for outcome in heard.values()] == [0, 1, 2]
    assert len(chat.asked) == 4


def test_what_hangs_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "LANDING_S", 0.1)
    chat = Scripted(fails_on_words, delay=lambda n: 0.0 if n == 1 else 30.0)
    started = time.monotonic()
    with pytest.raises(TooManyFailures):
        ask(chat, "no", "1", "2", max_failure_rate=0.0)
    assert time.monotonic() - started < 5.0


def each(chat: Scripted, asked: Any, keep: Callable[[int, RequestResult[int]], None], *, concurrency: int) -> None:
    asyncio.run(run_request_stream(chat, asked, a_number, keep, concurrency=concurrency))


def test_outcomes_are_handed_over_as_they_come_with_their_place() -> None:
    chat = Scripted(echo, delay=lambda n: {1: 0.09, 2: 0.03, 3: 0.06}[n])
    heard: list[tuple[int, Any]] = []
    each(chat, requests("0", "1", "2"), lambda place, outcome: heard.append((place, outcome.value)), concurrency=3)
    assert heard == [(1, 1), (2, 2), (0, 0)]


def test_no_more_is_held_than_what_is_in_flight() -> None:
    made = kept = most_held = 0

    def endless() -> Iterator[ChatRequest]:
        nonlocal made, most_held
        for number in range(500):
            made += 1
            most_held = max(most_held, made - kept)
            yield from requests(str(number))

    def keep(place: int, outcome: RequestResult[int]) -> None:
        nonlocal kept
        assert outcome.value == place
        kept += 1

    each(Scripted(echo, delay=lambda n: 0.001 * (n % 3)), endless(), keep, concurrency=7)
    assert (made, kept, most_held) == (500, 500, 7)


def test_an_error_in_keeping_ends_the_asking() -> None:
    def keep(place: int, outcome: RequestResult[int]) -> None:
        raise OSError("the disk is full")

    chat = Scripted(echo)
    with pytest.raises(OSError, match="the disk is full"):
        each(chat, requests(*map(str, range(100))), keep, concurrency=4)
    assert len(chat.asked) <= 8


SCRIPT = """
import sys
from pathlib import Path
from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.llm.executor import ask_all
from tapir_exp.llm.call_store import Books
from tapir_exp.llm.chat import ChatRequest, Message
from tapir_exp.llm.client import Client
from tapir_exp.llm.ledger import Account
call_store = Books(Path(sys.argv[2]), Account("run"), SpendConfig())
chat = Client(LLMConfig(model="openai/m", api_base=sys.argv[1]), "teacher", call_store)
asked = [ChatRequest(messages=(Message(role="user", content=str(n)),), max_tokens=20) for n in range(40)]
try:
    ask_all(chat, asked, lambda reply: reply.text, label="numbers", concurrency=8, max_failure_rate=0.0)
except KeyboardInterrupt:
    call_store.close()
    sys.exit(130)
"""


@pytest.mark.parametrize("late", [True, False], ids=["a call that lands", "calls that hang"])
def test_ctrl_c_stops_within_seconds_and_keeps_what_arrived(server: Server, tmp_path: Path, late: bool) -> None:
    server.delay_s = {str(n): 60.0 for n in range(20, 40)}
    if late:
        server.delay_s["20"] = 1.5
    command = [sys.executable, "-c", SCRIPT, server.base, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(server.seen) == 28)
    started = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - started < 5.0
    assert (process.returncode, out) == (130, "")
    arrived = 20 + late
    assert err == f"numbers: stopped with {arrived} of 40 done; their replies are kept.\n"
    call_store = CallStore(tmp_path, SpendScope("run"), SpendConfig())
    assert sum(held.replies for held in call_store.cache.summaries()) == arrived
    assert call_store.ledger.spent_by_scope().calls == arrived
    call_store.close()
    assert len(server.seen) == 28


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
