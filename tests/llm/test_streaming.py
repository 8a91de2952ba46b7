"""Running requests in another thread while the caller submits more of them."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from fakes import ScriptedChat, prompt_of
from loopback import Server

from tapir_exp.config import LLMConfig
from tapir_exp.core.errors import ReplyError, TooManyFailures
from tapir_exp.llm import streaming
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion, Message
from tapir_exp.llm.client import Client
from tapir_exp.llm.ledger import Spend
from tapir_exp.llm.streaming import StreamingExecutor


class ThreadedChat(ScriptedChat):
    """A scripted model that records in which thread it was opened."""

    opened_in: list[threading.Thread]

    def __init__(self, script: Callable[[ChatRequest], str]) -> None:
        super().__init__(script)
        self.opened_in = []

    @contextmanager
    def reopened(self, stage: str) -> Iterator[tuple[ChatModel, Mapping[str, Spend]]]:
        self.opened_in.append(threading.current_thread())
        yield self, {"judge": Spend(calls=len(stage))}


def request_of(text: str) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), max_tokens=5)


def parse_number(completion: Completion) -> int:
    if not completion.text.isdigit():
        raise ReplyError("no number")
    return int(completion.text)


def executor_of(chat: Any, *, max_failure_rate: float = 1.0, **options: Any) -> StreamingExecutor[int]:
    return StreamingExecutor(
        chat,
        parse_number,
        stage="verdicts-1",
        label="numbers",
        total=40,
        concurrency=4,
        max_failure_rate=max_failure_rate,
        **options,
    )


def test_submit_waits_while_many_requests_are_unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the memory is bounded, however fast the caller is; results go to the callback only."""
    monkeypatch.setattr(streaming, "MOST_WAITING", 3)
    submitted, unfinished, values = 0, [], []

    def script(request: ChatRequest) -> str:
        unfinished.append(submitted - len(values))
        return prompt_of(request)

    options = {"on_result": lambda index, result: values.append(result.value), "keep_results": False}
    with executor_of(ThreadedChat(script), **options) as executor:
        for index in range(30):
            submitted += 1
            executor.submit(index, request_of(str(index)))
        assert executor.finish() == {}
    assert sorted(values) == list(range(30))
    assert max(unfinished) <= 4


def test_streaming_executor_returns_results_by_index() -> None:
    chat = ThreadedChat(prompt_of)
    with executor_of(chat) as executor:
        for index in (7, 3, 5):
            executor.submit(index, request_of(str(index)))
        results = executor.finish()
    assert {index: result.value for index, result in results.items()} == {7: 7, 3: 3, 5: 5}
    assert executor.spend == {"judge": Spend(calls=len("verdicts-1"))}
    (thread,) = chat.opened_in
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_streaming_executor_accepts_requests_of_any_thread() -> None:
    with executor_of(ThreadedChat(prompt_of)) as executor:
        threads = [
            threading.Thread(target=lambda n=n: [executor.submit(i, request_of(str(i))) for i in range(n, 40, 4)])
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        results = executor.finish()
    assert {index: result.value for index, result in results.items()} == {n: n for n in range(40)}


def test_streaming_executor_without_requests_opens_nothing() -> None:
    chat = ThreadedChat(prompt_of)
    with executor_of(chat) as executor:
        assert executor.finish() == {}
    assert chat.opened_in == []


def test_streaming_executor_ignores_requests_after_an_error() -> None:
    """The caller may continue to submit; `finish` raises the error."""
    chat = ThreadedChat(lambda _: "words")
    with executor_of(chat, max_failure_rate=0.0) as executor:
        executor.submit(0, request_of("0"))
        chat_thread = wait_for_thread(chat)
        chat_thread.join(10)
        executor.submit(1, request_of("1"))
        with pytest.raises(TooManyFailures, match="numbers: 1 of 40 rows failed"):
            executor.finish()
    assert {prompt_of(request) for request in chat.requests} == {"0"}


def test_streaming_executor_error_of_opening_is_raised() -> None:
    class Broken(ScriptedChat):
        @contextmanager
        def reopened(self, stage: str) -> Iterator[tuple[ChatModel, Mapping[str, Spend]]]:
            raise OSError("no such disk")
            yield

    with executor_of(Broken([])) as executor:
        executor.submit(0, request_of("0"))
        with pytest.raises(OSError, match="no such disk"):
            executor.finish()


def test_streaming_executor_records_spend_under_its_stage(server: Server, call_store: CallStore) -> None:
    """Both ledgers write to the same database, each under the stage that it records."""
    client = Client(LLMConfig(model="openai/m", api_base=server.base), "judge", call_store)
    with call_store.ledger.record_stage("student_responses-1") as own_spend, executor_of(client) as executor:
        executor.submit(0, request_of("7"))
        executor.finish()
    assert own_spend == {}
    assert executor.spend["judge"].calls > 0
    assert call_store.ledger.by_stage() == {"verdicts-1": dict(executor.spend)}


def wait_for_thread(chat: ThreadedChat) -> threading.Thread:
    while not chat.opened_in:
        threading.Event().wait(0.01)
    return chat.opened_in[0]
