"""Batches: what is submitted, what is found again, and which requests are sent singly."""

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
from fake_batch_api import FakeBatchApi
from loopback import USAGE, Server, completion, dropped, request, status

from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.core.errors import BudgetSpent, ConfigError
from tapir_exp.core.secrets import HIDDEN
from tapir_exp.llm import batch_api, client
from tapir_exp.llm.batch_api import batch_digest
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import Completion, Usage
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
    """Return a factory of clients with `batch: true`."""

    def make_client(call_store: CallStore = call_store, **changes: Any) -> Client:
        values = {"model": "openai/m", "api_base": server.base, "timeout_s": 10.0, "max_attempts": 3, "batch": True}
        return Client(LLMConfig(**{**values, **changes}), "teacher", call_store)

    return make_client


def text_of(completion: Completion) -> str:
    return completion.text


def ask(chat: Client, *prompts: str) -> list[str | None]:
    requests = [request(prompt) for prompt in prompts]
    results = run_requests(chat, requests, text_of, label="test", concurrency=8, max_failure_rate=1.0)
    return [result.value for result in results]


def test_key_that_a_batch_repeats_is_not_kept(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPIR_TEST_KEY", "s3cret-q7Zk_Wv93xT")
    assert ask(make(api_key_env="TAPIR_TEST_KEY"), "s3cret-q7Zk_Wv93xT") == [f"batched: {HIDDEN}"]


def interrupt(chat: Client, *prompts: str) -> None:
    """Stop a client while its batch is in progress."""

    async def begin() -> None:
        async with asyncio.timeout(0.3), chat.connected([request(prompt) for prompt in prompts]):
            pass

    with pytest.raises(TimeoutError):
        asyncio.run(begin())


def test_requests_are_completed_in_one_batch(
    make: Make, server: Server, api: FakeBatchApi, call_store: CallStore
) -> None:
    chat = make()
    assert ask(chat, "a", "b", "c") == ["batched: a", "batched: b", "batched: c"]
    assert server.seen == []
    assert api.prompts() == [["a", "b", "c"]]
    assert (call_store.ledger.spent_by_scope().calls, call_store.ledger.spent_by_scope().tokens) == (3, 21)
    stored = call_store.cache.get(cache_key(chat.identity(), request("a")))
    assert stored is not None
    assert stored.text == "batched: a"


def test_batch_line_equals_single_call(make: Make, server: Server, api: FakeBatchApi) -> None:
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


def test_cached_requests_are_not_batched(make: Make, api: FakeBatchApi, call_store: CallStore) -> None:
    ask(make(), "a", "b")
    assert ask(make(), "a", "b", "c") == ["batched: a", "batched: b", "batched: c"]
    assert api.prompts() == [["a", "b"], ["c"]]
    polls = api.polls
    ask(make(), "a", "b", "c")
    assert (len(api.batches), api.polls) == (2, polls)


def test_requests_in_flight_elsewhere_are_not_batched(
    make: Make, api: FakeBatchApi, call_store: CallStore, tmp_path: Path
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


def test_requests_beyond_limit_are_split(make: Make, api: FakeBatchApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_api, "MAX_REQUESTS_PER_BATCH", 2)
    assert ask(make(), *"abcde") == [f"batched: {letter}" for letter in "abcde"]
    assert api.prompts() == [["a", "b"], ["c", "d"], ["e"]]


def test_failed_lines_are_sent_singly_at_single_price(
    make: Make, server: Server, api: FakeBatchApi, call_store: CallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "get_price", lambda config, batched=False: Price(0.0, 1.0 if batched else 2.0))
    api.missing = {"b"}
    assert ask(make(), "a", "b", "c") == ["batched: a", "re: b", "batched: c"]
    assert [prompt for prompt, _ in server.seen] == ["b"]
    assert call_store.ledger.spent_by_scope().usd == USAGE["completion_tokens"] * (1.0 + 2.0 + 1.0)


@pytest.mark.parametrize(
    "body", [{"choices": []}, [], None, {"choices": [{"message": {"content": "hm"}, "finish_reason": 3}]}]
)
def test_malformed_result_is_sent_singly(make: Make, api: FakeBatchApi, body: Any) -> None:
    api.bodies["b"] = body
    assert ask(make(), "a", "b") == ["batched: a", "re: b"]


def test_unusable_result_is_paid_and_sent_singly(make: Make, api: FakeBatchApi, call_store: CallStore) -> None:
    api.bodies["b"] = completion(" ", usage=USAGE)
    with call_store.ledger.record_stage("stage"):
        assert ask(make(), "a", "b") == ["batched: a", "re: b"]
    assert call_store.ledger.spent_by_scope().calls == 3
    assert [(row.kind, row.count) for row in call_store.ledger.failure_counts()] == [(FailureKind.EMPTY, 1)]


def test_expired_batch_yields_partial_results(make: Make, api: FakeBatchApi) -> None:
    api.final_status, api.missing = "expired", {"b"}
    assert ask(make(), "a", "b") == ["batched: a", "re: b"]


@pytest.mark.parametrize("final_status", ["failed", "cancelled"])
def test_failed_batch_is_sent_singly_and_not_reused(
    make: Make, server: Server, api: FakeBatchApi, call_store: CallStore, final_status: str
) -> None:
    api.final_status = final_status
    assert ask(make(), "a", "b") == ["re: a", "re: b"]
    call_store.cache.prune()
    api.final_status = "completed"
    assert ask(make(), "a", "b") == ["batched: a", "batched: b"]
    assert len(api.batches) == 2


def test_batch_in_progress_is_not_resubmitted(make: Make, api: FakeBatchApi) -> None:
    api.held = True
    interrupt(make(), "a", "b")
    api.held = False
    assert ask(make(), "a", "b", "c") == ["batched: a", "batched: b", "batched: c"]
    assert api.prompts() == [["a", "b"], ["c"]]


def test_unrecorded_batch_is_found_by_digest(make: Make, api: FakeBatchApi, call_store: CallStore) -> None:
    chat = make()
    api.held = True
    interrupt(chat, "a", "b")
    keys = [cache_key(chat.identity(), request(prompt)) for prompt in "ab"]
    call_store.batches.remove(f"{chat._config.api_base} openai/m None", keys)
    api.held = False
    assert ask(make(), "b", "a") == ["batched: b", "batched: a"]
    assert len(api.batches) == 1


def test_batch_without_requested_keys_is_ignored(make: Make, api: FakeBatchApi) -> None:
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
from tapir_exp.llm import batch_api
from tapir_exp.llm.executor import run_requests
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Message
from tapir_exp.llm.client import Client
from tapir_exp.llm.ledger import SpendScope
batch_api.POLL_S = 0.01
chat = Client(LLMConfig(model="openai/m", api_base=sys.argv[1], batch=True), "teacher",
              CallStore(Path(sys.argv[2]), SpendScope("run"), SpendConfig()))
requests = [ChatRequest(messages=(Message(role="user", content=prompt),), max_tokens=20) for prompt in "ab"]
run_requests(chat, requests, lambda completion: completion.text, label="test", concurrency=2, max_failure_rate=0.0)
"""


def test_batch_of_killed_process_is_read_by_next(make: Make, server: Server, api: FakeBatchApi, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("responder", [status(503), status(429), dropped, lambda _: web.Response(text="<html>")])
def test_transient_failure_does_not_end_wait(make: Make, api: FakeBatchApi, responder: Any) -> None:
    api.status_responders = [responder] * 3
    assert ask(make(), "a") == ["batched: a"]


def test_lasting_failure_raises_and_batch_is_read_later(make: Make, api: FakeBatchApi) -> None:
    api.status_responders = [status(500)] * batch_api.MAX_ATTEMPTS
    with pytest.raises(EndpointError, match=r"teacher: http.*/batches/batch-0: server error: 500"):
        ask(make(), "a")
    assert ask(make(), "a") == ["batched: a"]
    assert len(api.batches) == 1


def test_endpoint_without_batch_api_raises(make: Make, api: FakeBatchApi) -> None:
    api.enabled = False
    with pytest.raises(EndpointError, match=r"no access: 404.*If this endpoint has no batch API, set llm\.batch=false"):
        ask(make(), "a")


def test_batch_requires_openai_compatible_model(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"teacher: llm\.batch requires a model named openai/NAME.*, got dashscope/m"):
        make(model="dashscope/m").check()


def test_budget_is_checked_before_submission(make: Make, server: Server, api: FakeBatchApi, tmp_path: Path) -> None:
    call_store = CallStore(tmp_path / "small", SpendScope("run"), SpendConfig(max_calls=1))
    call_store.ledger.record_paid("teacher", Usage(prompt_tokens=1, completion_tokens=1, usd=None))
    call_store.ledger.flush()
    with pytest.raises(BudgetSpent):
        ask(make(call_store), "a")
    assert (api.batches, api.files, server.seen) == ([], {}, [])
    call_store.close()


def test_batch_digest_ignores_order() -> None:
    assert batch_digest(["a", "b"]) == batch_digest(["b", "a"]) != batch_digest(["a", "c"])
    assert len(batch_digest([])) == 32
