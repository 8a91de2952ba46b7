"""Running many requests: order, concurrency, the second attempt, and when to stop."""

import asyncio
import os
import re
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
from tapir_exp.llm import executor
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Completion, Message, Usage
from tapir_exp.llm.executor import RequestResult, run_request_stream, run_requests
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.ledger import SpendScope


class Scripted:
    """A chat model that completes a request with what `script` returns; an exception is raised."""

    def __init__(
        self, script: Callable[[ChatRequest], str | Completion | Exception], delay: Callable[[int], float] = lambda _: 0
    ) -> None:
        self.script, self.delay = script, delay
        self.requests: list[ChatRequest] = []
        self.failed: list[tuple[ChatRequest, CallError]] = []
        self.in_flight = self.most_in_flight = 0

    def identity(self) -> dict[str, Any]:
        return {"model": "scripted"}

    @asynccontextmanager
    async def connected(self, requests: Sequence[ChatRequest]) -> AsyncIterator[None]:
        yield

    def count_cached(self, requests: Sequence[ChatRequest]) -> int:
        return 0

    def record_failed(self, request: ChatRequest, error: CallError) -> None:
        self.failed.append((request, error))

    async def complete(self, request: ChatRequest) -> Completion:
        self.requests.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(self.delay(len(self.requests)))
        self.in_flight -= 1
        result = self.script(request)
        if isinstance(result, Exception):
            raise result
        return result if isinstance(result, Completion) else completion_of(result)


def completion_of(text: str, finish_reason: str = "stop") -> Completion:
    usage = Usage(prompt_tokens=1, completion_tokens=1, usd=0.0)
    return Completion(text=text, finish_reason=finish_reason, usage=usage)


def requests_of(*prompts: str) -> list[ChatRequest]:
    return [ChatRequest(messages=(Message(role="user", content=text),), max_tokens=5) for text in prompts]


def parse_number(completion: Completion) -> int:
    try:
        return int(completion.text)
    except ValueError:
        raise ReplyError(f"{completion.text!r} is no number.") from None


def run(chat: Scripted, *prompts: str, max_failure_rate: float = 1.0, concurrency: int = 4) -> list[Any]:
    return run_requests(
        chat,
        requests_of(*prompts),
        parse_number,
        label="numbers",
        concurrency=concurrency,
        max_failure_rate=max_failure_rate,
    )


def echo(request: ChatRequest) -> str:
    return request.messages[0].content


def fail_on_words(request: ChatRequest) -> str | Exception:
    return echo(request) if echo(request).isdigit() else CallError(FailureKind.REFUSED, echo(request))


def test_run_requests_keeps_the_order() -> None:
    chat = Scripted(echo, delay=lambda n: 0.02 / n)
    assert [result.value for result in run(chat, *map(str, range(9)))] == list(range(9))


def test_run_requests_in_a_notebook() -> None:
    """The thread of a cell runs an event loop already."""

    async def cell() -> list[Any]:
        return run(Scripted(echo, delay=lambda _: 0.001), "1", "2")

    assert [result.value for result in asyncio.run(cell())] == [1, 2]


def test_run_requests_has_concurrency_calls_in_flight() -> None:
    chat = Scripted(echo, delay=lambda _: 0.001)
    run(chat, *map(str, range(20)), concurrency=3)
    assert chat.most_in_flight == 3


def test_run_requests_result_has_its_completion() -> None:
    completion = completion_of("7", "length")
    (result,) = run(Scripted(lambda _: completion), "Three and four?")
    assert result == RequestResult(7, "7", None, completion)


def test_run_requests_retries_with_the_parse_error() -> None:
    chat = Scripted(lambda request: "7" if len(request.messages) > 1 else "seven")
    (result,) = run(chat, "Three and four?")
    assert (result.value, result.raw, result.failure) == (7, "7", None)
    assert result.completion == completion_of("7")
    retry = chat.requests[1]
    assert [message.role for message in retry.messages] == ["user", "assistant", "user"]
    assert retry.messages[1].content == "seven"
    assert "'seven' is no number." in retry.messages[2].content
    assert retry.max_tokens == 5


def test_run_requests_unreadable_twice_is_a_failure() -> None:
    chat = Scripted(lambda request: "VII" if len(request.messages) > 1 else "seven")
    (result,) = run(chat, "Three and four?")
    assert result.value is None
    assert result.raw == "VII"
    assert result.failure == "unreadable reply: 'VII' is no number."
    assert result.completion == completion_of("VII")
    assert len(chat.requests) == 2


def test_run_requests_failed_call_is_a_failure_with_its_reason() -> None:
    chat = Scripted(lambda request: CallError(FailureKind.TIMEOUT, "slow") if echo(request) == "bad" else "1")
    good, bad = run(chat, "good", "bad")
    assert good.value == 1
    assert (bad.value, bad.raw, bad.failure, bad.completion) == (None, "", "time-out: slow", None)


def test_run_requests_failed_retry_keeps_the_first_completion() -> None:
    chat = Scripted(lambda request: CallError(FailureKind.EMPTY, "") if len(request.messages) > 1 else "seven")
    (result,) = run(chat, "Three and four?")
    assert (result.raw, result.failure) == ("seven", "empty reply: ")
    assert result.completion == completion_of("seven")


def test_run_requests_tolerates_allowed_failures() -> None:
    results = run(Scripted(fail_on_words), "1", "2", "3", "no", max_failure_rate=0.25)
    assert [result.value for result in results] == [1, 2, 3, None]


@pytest.mark.parametrize("max_failure_rate", [0.01, 0.2, 0.25])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_run_requests_one_failure_in_a_handful_is_tolerated(count: int, max_failure_rate: float) -> None:
    results = run(Scripted(fail_on_words), *["1"] * (count - 1), "no", max_failure_rate=max_failure_rate)
    assert [result.value for result in results] == [1] * (count - 1) + [None]


@pytest.mark.parametrize(
    ("count", "max_failure_rate", "allowed"), [(4, 0.3, 2), (10, 0.2, 2), (10, 0.21, 3), (100, 0.02, 2), (3, 1.0, 3)]
)
def test_run_requests_rounds_the_allowed_failures_up(count: int, max_failure_rate: float, allowed: int) -> None:
    def results(failed: int) -> list[Any]:
        prompts = ["no"] * failed + ["1"] * (count - failed)
        return run(Scripted(fail_on_words), *prompts, max_failure_rate=max_failure_rate)

    assert sum(result.failure is not None for result in results(allowed)) == allowed
    if allowed < count:
        with pytest.raises(TooManyFailures, match=f"{allowed + 1} of {count} rows failed"):
            results(allowed + 1)


def test_run_requests_failure_rate_0_tolerates_none() -> None:
    with pytest.raises(TooManyFailures, match="1 of 9 rows failed"):
        run(Scripted(fail_on_words), *map(str, range(8)), "no", max_failure_rate=0.0)


def test_run_requests_too_many_failures_show_a_table() -> None:
    with pytest.raises(TooManyFailures) as caught:
        run(Scripted(fail_on_words), "1", "once", "twice", "twice", max_failure_rate=0.5)
    lines = str(caught.value).splitlines()
    assert lines[0] == "numbers: 3 of 4 rows failed, more than the allowed 50.0%:"
    assert [line.split() for line in lines[1:3]] == [
        ["2", "request", "refused:", "twice"],
        ["1", "request", "refused:", "once"],
    ]


def test_run_requests_raises_a_config_error_as_it_is() -> None:
    with pytest.raises(ConfigError, match="KEY is not set"):
        run(Scripted(lambda _: ConfigError(["KEY is not set"])), "1", "2", "3")


def test_run_requests_without_requests_is_empty() -> None:
    assert run(Scripted(echo), max_failure_rate=0.0) == []


def test_run_requests_twice_uses_fresh_event_loops() -> None:
    chat = Scripted(echo)
    assert [run(chat, "1")[0].value, run(chat, "2")[0].value] == [1, 2]


def parse_whole_number(completion: Completion) -> int:
    if completion.finish_reason == "length":
        raise ReplyError("The reply was cut.")
    return parse_number(completion)


def run_whole(chat: Scripted, *prompts: str) -> list[RequestResult[int]]:
    return run_requests(
        chat, requests_of(*prompts), parse_whole_number, label="numbers", concurrency=4, max_failure_rate=1.0
    )


def test_run_requests_cut_completion_is_retried_with_more_room() -> None:
    chat = Scripted(
        lambda request: completion_of("12345678"[: request.max_tokens], "stop" if request.max_tokens >= 8 else "length")
    )
    (result,) = run_whole(chat, "Count.")
    assert (result.value, result.raw, result.failure) == (12345678, "12345678", None)
    assert [request.max_tokens for request in chat.requests] == [5, 10]
    assert chat.requests[1].messages == chat.requests[0].messages
    assert chat.failed == []


def test_run_requests_completion_cut_twice_is_a_failure() -> None:
    chat = Scripted(lambda request: completion_of("1" * request.max_tokens, "length"))
    (result,) = run_whole(chat, "Count.")
    assert (result.value, result.raw) == (None, "1" * 10)
    assert result.failure == "cut at the length limit: The reply was cut."
    assert len(chat.requests) == 2
    ((request, error),) = chat.failed
    assert (request.max_tokens, error.kind, error.raw) == (10, FailureKind.CUT, "1" * 10)


def test_run_requests_cut_completion_that_parses_is_accepted() -> None:
    chat = Scripted(lambda _: completion_of("12", "length"))
    assert [result.value for result in run(chat, "Count.")] == [12]
    assert len(chat.requests) == 1


def test_run_requests_records_failures_with_reason_and_text() -> None:
    scripts: dict[str, str | Exception] = {
        "fine": "7",
        "words": "seven",
        "down": CallError(FailureKind.TIMEOUT, "slow"),
        "filtered": CallError(FailureKind.FILTERED, "stopped", raw="I sh"),
    }
    chat = Scripted(lambda request: scripts[echo(request)])
    run(chat, *scripts, concurrency=1)
    assert [(echo(request), error.kind, error.detail, error.raw) for request, error in chat.failed] == [
        ("words", FailureKind.UNREADABLE, "'seven' is no number.", "seven"),
        ("down", FailureKind.TIMEOUT, "slow", ""),
        ("filtered", FailureKind.FILTERED, "stopped", "I sh"),
    ]


def test_run_requests_stops_at_the_first_failure_too_many() -> None:
    chat = Scripted(fail_on_words)
    with pytest.raises(TooManyFailures, match=r"numbers: 1[1-4] of 1000 rows failed") as caught:
        run(chat, *["no"] * 1000, max_failure_rate=0.01)
    assert len(chat.requests) <= 11 + 4
    # Calls in flight finish after the error, and the message counts them as well.
    failed, run_, answered = (int(number) for number in re.findall(r"\d+(?= of 1000| have a)", str(caught.value)))
    assert failed == run_ == len(chat.requests)
    assert (answered, f"The other {1000 - run_} were given up" in str(caught.value)) == (0, True)


def run_stream(
    chat: Scripted, requests: Any, on_result: Callable[[int, RequestResult[int]], None], *, concurrency: int
) -> None:
    asyncio.run(run_request_stream(chat, requests, parse_number, on_result, concurrency=concurrency))


def test_request_stream_finishes_calls_in_flight_after_an_error() -> None:
    def script(request: ChatRequest) -> str | Exception:
        return ConfigError(["KEY is not set"]) if echo(request) == "bad" else echo(request)

    chat = Scripted(script, delay=lambda n: 0.0 if n == 1 else 0.1)
    results: dict[int, Any] = {}
    with pytest.raises(ConfigError):
        run_stream(chat, requests_of("bad", *map(str, range(20))), results.__setitem__, concurrency=4)
    assert [result.value for result in results.values()] == [0, 1, 2]
    assert len(chat.requests) == 4


@pytest.mark.timing
def test_run_requests_cancels_hanging_calls_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "ERROR_GRACE_S", 0.1)
    chat = Scripted(fail_on_words, delay=lambda n: 0.0 if n == 1 else 30.0)
    started = time.monotonic()
    with pytest.raises(TooManyFailures):
        run(chat, "no", "1", "2", max_failure_rate=0.0)
    assert time.monotonic() - started < 5.0


def test_request_stream_passes_results_on_as_they_come() -> None:
    chat = Scripted(echo, delay=lambda n: {1: 0.09, 2: 0.03, 3: 0.06}[n])
    results: list[tuple[int, Any]] = []
    run_stream(
        chat, requests_of("0", "1", "2"), lambda index, result: results.append((index, result.value)), concurrency=3
    )
    assert results == [(1, 1), (2, 2), (0, 0)]


def test_request_stream_holds_only_requests_in_flight() -> None:
    made = finished = most_held = 0

    def many() -> Iterator[ChatRequest]:
        nonlocal made, most_held
        for number in range(500):
            made += 1
            most_held = max(most_held, made - finished)
            yield from requests_of(str(number))

    def on_result(index: int, result: RequestResult[int]) -> None:
        nonlocal finished
        assert result.value == index
        finished += 1

    run_stream(Scripted(echo, delay=lambda n: 0.001 * (n % 3)), many(), on_result, concurrency=7)
    # Four times as many as there are calls in flight may wait for the disk.
    assert (made, finished, most_held) == (500, 500, 35)


def test_request_stream_error_of_on_result_ends_it() -> None:
    def on_result(index: int, result: RequestResult[int]) -> None:
        raise OSError("the disk is full")

    chat = Scripted(echo)
    with pytest.raises(OSError, match="the disk is full"):
        run_stream(chat, requests_of(*map(str, range(100))), on_result, concurrency=4)
    assert len(chat.requests) <= 8


SCRIPT = """
import sys
from pathlib import Path
from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.llm.executor import run_requests
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Message
from tapir_exp.llm.client import Client
from tapir_exp.llm.ledger import SpendScope
call_store = CallStore(Path(sys.argv[2]), SpendScope("run"), SpendConfig())
chat = Client(LLMConfig(model="openai/m", api_base=sys.argv[1]), "teacher", call_store)
requests = [ChatRequest(messages=(Message(role="user", content=str(n)),), max_tokens=20) for n in range(40)]
try:
    run_requests(chat, requests, lambda reply: reply.text, label="numbers", concurrency=8, max_failure_rate=0.0)
except KeyboardInterrupt:
    call_store.close()
    sys.exit(130)
"""


@pytest.mark.timing
@pytest.mark.parametrize("late", [True, False], ids=["a late call", "hanging calls"])
def test_run_requests_ctrl_c_stops_and_keeps_completions(server: Server, tmp_path: Path, late: bool) -> None:
    """The run ends within seconds; a call in flight that finishes in time is kept."""
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
    finished = 20 + late
    assert err == f"numbers: stopped after {finished} of 40 requests; their completions are cached.\n"
    call_store = CallStore(tmp_path, SpendScope("run"), SpendConfig())
    assert sum(of_model.replies for of_model in call_store.cache.summaries()) == finished
    assert call_store.ledger.spent_by_scope().calls == finished
    call_store.close()
    assert len(server.seen) == 28


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
