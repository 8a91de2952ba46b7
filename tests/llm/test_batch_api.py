"""Asking in batches: what is submitted, what is found again, and what is asked singly in the end."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from batch_desk import BatchDesk
from loopback import PAID, Server, completion, dropped, request, status

from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.core.errors import BudgetSpent, ConfigError
from tapir_exp.llm import batch_api, client
from tapir_exp.llm.batch_api import batch_digest
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import Usage
from tapir_exp.llm.client import Client
from tapir_exp.llm.executor import run_requests
from tapir_exp.llm.failures import EndpointError, FailureKind
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.llm.pricing import Price
from tapir_exp.llm.response_cache import cache_key

Make = Callable[..., Client]


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_api, "POLL_S", 0.01)


@pytest.fixture
def make(server: Server, call_store: CallStore) -> Make:
    """Makes clients that ask in batches."""

    def made(call_store: CallStore = call_store, **changes: Any) -> Client:
        values = {"model": "openai/m", "api_base": server.base, "timeout_s": 10.0, "max_attempts": 3, "batch": True}
        return Client(LLMConfig(**{**values, **changes}), "teacher", call_store)

    return made


def ask(chat: Client, *prompts: str) -> list[str | None]:
    asked = [request(prompt) for prompt in prompts]
    outcomes = run_requests(chat, asked, lambda reply: reply.text, label="test", concurrency=8, max_failure_rate=1.0)
    return [outcome.value for outcome in outcomes]


def interrupt(chat: Client, *prompts: str) -> None:
    """Begin to ask and be stopped while the batch is under way."""

    async def begin() -> None:
        async with asyncio.timeout(0.3), chat.connected([request(prompt) for prompt in prompts]):
            pass

    with pytest.raises(TimeoutError):
        asyncio.run(begin())


def test_all_is_asked_in_one_batch_and_paid_and_kept(
    make: Make, server: Server, api: BatchDesk, call_store: CallStore
) -> None:
    chat = make()
    assert ask(chat, "a", "b", "c") == ["batched: a", "batched: b", "batched: c"]
    assert server.seen == []
    assert api.prompts() == [["a", "b", "c"]]
    assert (call_store.ledger.spent_by_scope().calls, call_store.ledger.spent_by_scope().tokens) == (3, 21)
    kept = call_store.cache.get(cache_key(chat.identity(), request("a")))
    assert kept is not None
    assert kept.text == "batched: a"


def test_a_line_is_the_call_that_would_be_made_singly(make: Make, server: Server, api: BatchDesk) -> None:
    chat = make()
    ask(chat, "a")
    ask(make(batch=False), "b")
    (line,) = api.files["file-0"]
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    assert line["custom_id"] == cache_key(chat.identity(), request("a"))
    (single,) = server.bodies
    assert {**single, "messages": []} == {**line["body"], "messages": []}
    assert api.batches[0]["endpoint"] == "/v1/chat/completions"
    assert api.batches[0]["completion_window"] == "24h"


def test_what_is_kept_is_in_no_batch(make: Make, api: BatchDesk, call_store: CallStore) -> None:
    ask(make(), "a", "b")
    assert ask(make(), "a", "b", "c") == ["batched: a", "batched: b", "batched: c"]
    assert api.prompts() == [["a", "b"], ["c"]]
    polls = api.polls
    ask(make(), "a", "b", "c")
    assert (len(api.batches), api.polls) == (2, polls)


def test_what_another_process_asks_for_is_in_no_batch(
    make: Make, api: BatchDesk, call_store: CallStore, tmp_path: Path
) -> None:
    other = CallStore(tmp_path / "call_store", SpendScope("other"), SpendConfig())
    chat = make()
    assert other.locks.acquire(cache_key(chat.identity(), request("a")))

    async def connect() -> None:
        async with chat.connected([request("a"), request("b")]):
            pass

    asyncio.run(connect())
    other.close()
    assert api.prompts() == [["b"]]


def test_large_sets_are_split(make: Make, api: BatchDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_api, "MAX_REQUESTS_PER_BATCH", 2)
    assert ask(make(), *"abcde") == [f"batched: {letter}" for letter in "abcde"]
    assert api.prompts() == [["a", "b"], ["c", "d"], ["e"]]


def test_lines_that_failed_are_asked_singly_and_at_their_own_price(
    make: Make, server: Server, api: BatchDesk, call_store: CallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "price_of", lambda config, batched=False: Price(0.0, 1.0 if batched else 2.0))
    api.failing = {"b"}
    assert ask(make(), "a", "b", "c") == ["batched: a", "re: b", "batched: c"]
    assert [prompt for prompt, _ in server.seen] == ["b"]
    assert call_store.ledger.spent_by_scope().usd == PAID["completion_tokens"] * (1.0 + 2.0 + 1.0)


@pytest.mark.parametrize(
    "body", [{"choices": []}, [], None, {"choices": [{"message": {"content": "hm"}, "finish_reason": 3}]}]
)
def test_a_result_that_is_no_completion_is_asked_singly(make: Make, api: BatchDesk, body: Any) -> None:
    api.odd["b"] = body
    assert ask(make(), "a", "b") == ["batched: a", "re: b"]


def test_a_result_that_cannot_be_used_is_paid_counted_and_asked_singly(
    make: Make, api: BatchDesk, call_store: CallStore
) -> None:
    api.odd["b"] = completion(" ", usage=PAID)
    with call_store.ledger.record_stage("stage"):
        assert ask(make(), "a", "b") == ["batched: a", "re: b"]
    assert call_store.ledger.spent_by_scope().calls == 3
    assert [(fault.kind, fault.count) for fault in call_store.ledger.failure_counts()] == [(FailureKind.EMPTY, 1)]


def test_an_expired_batch_gives_what_it_has(make: Make, api: BatchDesk) -> None:
    api.ends, api.failing = "expired", {"b"}
    assert ask(make(), "a", "b") == ["batched: a", "re: b"]


@pytest.mark.parametrize("ends", ["failed", "cancelled"])
def test_a_batch_that_failed_as_a_whole_is_asked_singly_and_never_adopted(
    make: Make, server: Server, api: BatchDesk, call_store: CallStore, ends: str
) -> None:
    api.ends = ends
    assert ask(make(), "a", "b") == ["re: a", "re: b"]
    call_store.cache.prune()
    api.ends = "completed"
    assert ask(make(), "a", "b") == ["batched: a", "batched: b"]
    assert len(api.batches) == 2


def test_a_batch_under_way_is_read_not_submitted_again(make: Make, api: BatchDesk) -> None:
    api.held = True
    interrupt(make(), "a", "b")
    api.held = False
    assert ask(make(), "a", "b", "c") == ["batched: a", "batched: b", "batched: c"]
    assert api.prompts() == [["a", "b"], ["c"]]


def test_a_batch_whose_id_was_lost_is_found_by_its_digest(make: Make, api: BatchDesk, call_store: CallStore) -> None:
    chat = make()
    api.held = True
    interrupt(chat, "a", "b")
    keys = [cache_key(chat.identity(), request(prompt)) for prompt in "ab"]
    call_store.batches.forget(f"{chat._config.api_base} openai/m None", keys)
    api.held = False
    assert ask(make(), "b", "a") == ["batched: b", "batched: a"]
    assert len(api.batches) == 1


def test_a_batch_that_others_want_is_left_to_them(make: Make, api: BatchDesk) -> None:
    api.held = True
    interrupt(make(), "a", "b", "c")
    api.held = False
    assert ask(make(), "d") == ["batched: d"]
    assert ask(make(), "c") == ["batched: c"]
    assert ask(make(), "a", "b") == ["batched: a", "batched: b"]
    assert api.prompts() == [["a", "b", "c"], ["d"]]


SCRIPT = """
import sys
from pathlib import Path
from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.llm import batches
from tapir_exp.llm.executor import ask_all
from tapir_exp.llm.call_store import Books
from tapir_exp.llm.chat import ChatRequest, Message
from tapir_exp.llm.client import Client
from tapir_exp.llm.ledger import Account
batches.POLL_S = 0.01
chat = Client(LLMConfig(model="openai/m", api_base=sys.argv[1], batch=True), "teacher",
              Books(Path(sys.argv[2]), Account("run"), SpendConfig()))
asked = [ChatRequest(messages=(Message(role="user", content=prompt),), max_tokens=20) for prompt in "ab"]
ask_all(chat, asked, lambda reply: reply.text, label="test", concurrency=2, max_failure_rate=0.0)
"""


def test_a_killed_process_leaves_its_batch_to_the_next(
    make: Make, server: Server, api: BatchDesk, tmp_path: Path
) -> None:
    api.held = True
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, server.base, str(tmp_path / "call_store")], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while not api.polls:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    api.held = False
    assert ask(make(), "a", "b") == ["batched: a", "batched: b"]
    assert len(api.batches) == 1


@pytest.mark.parametrize("upset", [status(503), status(429), dropped, lambda _: web.Response(text="<html>")])
def test_a_passing_failure_does_not_end_the_wait(make: Make, api: BatchDesk, upset: Any) -> None:
    api.upsets = [upset] * 3
    assert ask(make(), "a") == ["batched: a"]


def test_a_lasting_failure_ends_it_and_the_batch_is_read_later(make: Make, api: BatchDesk) -> None:
    api.upsets = [status(500)] * batch_api.MAX_TRIES
    with pytest.raises(EndpointError, match=r"teacher: http.*/batches/batch-0: server error: 500"):
        ask(make(), "a")
    assert ask(make(), "a") == ["batched: a"]
    assert len(api.batches) == 1


def test_an_endpoint_without_batches_says_so(make: Make, api: BatchDesk) -> None:
    api.open = False
    with pytest.raises(EndpointError, match=r"no access: 404.*Does this endpoint take batches\? If not, set batch"):
        ask(make(), "a")


def test_a_provider_of_another_protocol_takes_no_batches(make: Make) -> None:
    with pytest.raises(ConfigError, match="teacher: batch is for endpoints of the OpenAI protocol, unlike dashscope/m"):
        make(model="dashscope/m").check()


def test_the_budget_is_checked_before_a_batch_is_submitted(
    make: Make, server: Server, api: BatchDesk, tmp_path: Path
) -> None:
    call_store = CallStore(tmp_path / "small", SpendScope("run"), SpendConfig(max_calls=1))
    call_store.ledger.record_paid("teacher", Usage(prompt_tokens=1, completion_tokens=1, usd=None))
    call_store.ledger.flush()
    with pytest.raises(BudgetSpent):
        ask(make(call_store), "a")
    assert (api.batches, api.files, server.seen) == ([], {}, [])
    call_store.close()


def test_the_digest_is_of_the_set_of_keys() -> None:
    assert batch_digest(["a", "b"]) == batch_digest(["b", "a"]) != batch_digest(["a", "c"])
    assert len(batch_digest([])) == 32
