"""Client with the HTTP transport and with litellm, against a real server on the loopback interface."""

import asyncio
import logging
import re
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import loopback
import pytest
from aiohttp import web
from calls import failure, one
from loopback import USAGE, Responder, Server, dropped, html, request, status, text

from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.secrets import HIDDEN
from tapir_exp.llm import client, reactions
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Completion, Message
from tapir_exp.llm.client import Client
from tapir_exp.llm.executor import RequestResult, run_requests
from tapir_exp.llm.failures import EndpointError, FailureKind
from tapir_exp.llm.ledger import Ledger, Spend, SpendScope
from tapir_exp.llm.litellm_transport import load_litellm
from tapir_exp.llm.response_cache import cache_key


def ask(chat: Client, *prompts: str) -> list[RequestResult[Completion]]:
    requests = [request(prompt) for prompt in prompts]
    return run_requests(
        chat, requests, lambda completion: completion, label="test", concurrency=8, max_failure_rate=1.0
    )


def test_complete_returns_text_and_usage(make: Any, server: Server, ledger: Ledger) -> None:
    completion = one(make(usd_per_million_input=2.0, usd_per_million_output=10.0), "hello")
    assert (completion.text, completion.finish_reason) == ("re: hello", "stop")
    assert completion.usage.model_dump() == {**USAGE, "usd": pytest.approx(30e-6), "estimated": False}
    assert ledger.by_stage() == {"": {"teacher": Spend(calls=1, **USAGE, usd=30e-6)}}


def test_body_holds_request_and_extra_params_only(make: Any, server: Server) -> None:
    system = Message(role="system", content="Be brief.")
    messages = (system, *request("hello").messages)
    chat = make(extra_params={"top_p": 0.5, "extra_body": {"min_p": 0.1}})
    requests = [ChatRequest(messages=messages, max_tokens=20, temperature=0.7, sample=3)]
    run_requests(chat, requests, lambda completion: completion, label="test", concurrency=1, max_failure_rate=0.0)
    assert server.bodies == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
            "max_tokens": 20,
            "temperature": 0.7,
            "top_p": 0.5,
            "min_p": 0.1,
        }
    ]


def test_cached_requests_are_not_sent(make: Any, server: Server, ledger: Ledger) -> None:
    first = ask(make(), "a", "b", "c")
    again = ask(make(concurrency=3, timeout_s=5.0, max_attempts=1, usd_per_million_input=1.0), "a", "b", "c")
    assert [result.value for result in again] == [result.value for result in first]
    assert len(server.seen) == 3
    assert (ledger.spent_by_scope().calls, ledger.spent_by_scope().cached) == (3, 3)


def test_each_sample_index_is_a_call(make: Any, server: Server) -> None:
    chat = make()
    for sample in (0, 1, 1):
        one(chat, "a", sample=sample)
    assert len(server.seen) == 2


def test_identical_requests_in_flight_share_a_call(make: Any, server: Server, ledger: Ledger) -> None:
    server.delay_s["a"] = 0.1
    results = ask(make(), "a", "a", "a", "b")
    assert [result.value and result.value.text for result in results] == ["re: a"] * 3 + ["re: b"]
    assert len(server.times("a")) == 1
    assert (ledger.spent_by_scope().calls, ledger.spent_by_scope().cached) == (2, 2)


def test_identical_requests_in_flight_share_the_error(make: Any, server: Server, ledger: Ledger) -> None:
    server.script["a"], server.delay_s["a"] = [status(400)], 0.1
    results = ask(make(), "a", "a", "a")
    assert all("request refused" in (result.failure or "") for result in results)
    assert len(server.seen) == 1
    assert ledger.spent_by_scope() == Spend()


def test_shared_call_is_repeated_if_first_waiter_is_cancelled(make: Any, server: Server) -> None:
    server.delay_s["a"] = 0.3

    async def two(chat: Client) -> Completion:
        async with chat.connected():
            first = asyncio.ensure_future(chat.complete(request("a")))
            await asyncio.sleep(0)
            second = asyncio.ensure_future(chat.complete(request("a")))
            while not server.seen:  # a busy machine takes long to send the first one
                await asyncio.sleep(0.01)
            first.cancel()
            return await second

    assert asyncio.run(two(make())).text == "re: a"
    assert len(server.seen) == 2


def test_failed_call_is_no_longer_in_flight(make: Any, server: Server) -> None:
    server.script["a"] = [status(400), text("yes")]
    chat = make()
    failure(chat, "a")
    assert one(chat, "a").text == "yes"


def test_client_serves_several_event_loops(make: Any, server: Server) -> None:
    """litellm caches its clients by the address of the event loop, which a later loop may reuse."""
    chat = make(max_attempts=1)
    for turn in range(12):
        results = ask(chat, *(f"{turn}.{index}" for index in range(4)))
        assert [result.failure for result in results] == [None] * 4


@pytest.mark.parametrize("code", [409, 429, 500, 502, 503, 529])
def test_transient_status_is_retried(make: Any, server: Server, ledger: Ledger, code: int) -> None:
    server.script["a"] = [status(code), status(code), text("at last")]
    assert one(make(), "a").text == "at last"
    assert len(server.seen) == 3
    assert ledger.spent_by_scope().calls == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (status(500), FailureKind.SERVER),
        (html(502), FailureKind.SERVER),
        (text(""), FailureKind.EMPTY),
        (text(" \n"), FailureKind.EMPTY),
        (text(None), FailureKind.EMPTY),
    ],
)
def test_lasting_failure_ends_after_max_attempts(make: Any, server: Server, answer: Responder, kind: Any) -> None:
    server.script["a"] = [answer]
    error = failure(make(), "a")
    assert error.kind is kind
    assert str(error).endswith("(attempts: 3)")
    assert len(str(error)) < 300
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (html(200), FailureKind.MALFORMED),
        (lambda _: web.Response(text='{"choices": [{"mess', content_type="application/json"), FailureKind.MALFORMED),
        (lambda _: web.json_response({"id": "1", "choices": []}), FailureKind.MALFORMED),
        (lambda _: web.json_response([1]), FailureKind.MALFORMED),
        (dropped, FailureKind.CONNECTION),
    ],
)
def test_malformed_response_is_retried(
    make: Any, server: Server, ledger: Ledger, answer: Responder, kind: FailureKind
) -> None:
    server.script["a"] = [answer, text("yes")]
    server.script["b"] = [answer]
    chat = make()
    with ledger.record_stage("stage"):
        assert one(chat, "a").text == "yes"
    if not chat._config.use_litellm:  # litellm reports all of these as server errors
        counts = {row.kind: row.count for row in ledger.failure_counts() if row.kind is not FailureKind.NO_USAGE}
        assert counts == {kind: 1}
        # A reply with status 200 may have been paid.
        assert ledger.by_stage()["stage"]["teacher"].calls == 1 + (kind is FailureKind.MALFORMED)
        assert failure(chat, "b").kind is kind


@pytest.mark.parametrize("code", [401, 404])
def test_wrong_key_or_model_aborts_run(make: Any, server: Server, code: int) -> None:
    server.script = {str(index): [status(code)] for index in range(50)}
    with pytest.raises(EndpointError, match=f"teacher: openai/m refuses every call: no access: {code}"):
        ask(make(), *server.script)
    assert len(server.seen) <= 8


def test_exhausted_quota_aborts_run(make: Any, server: Server) -> None:
    body = {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}
    server.script["a"] = [lambda _: web.json_response(body, status=429)]
    with pytest.raises(EndpointError, match="quota used up"):
        one(make(), "a")
    assert len(server.seen) == 1


@pytest.mark.parametrize("code", [400, 403, 413, 422])
def test_refused_request_is_not_retried(make: Any, server: Server, code: int) -> None:
    server.script["a"] = [status(code)]
    error = failure(make(), "a")
    assert error.kind is FailureKind.REFUSED
    assert f"scripted status {code}" in str(error)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("base", "where"), [("127.0.0.1:9", "http://127.0.0.1:9"), ("x.invalid", "http://x.invalid:80")]
)
def test_unreachable_endpoint_stops_at_first_call(make: Any, base: str, where: str, ledger: Ledger) -> None:
    chat = make(api_base=f"http://{base}/v1", max_attempts=8)
    with pytest.raises(EndpointError, match=rf"teacher: no connection to {where}: .*teacher\.llm\.api_base"):
        one(chat, "a")
    assert [row.count for row in ledger.failure_counts()] == [1]


def test_lost_endpoint_is_retried_after_first_answer(
    make: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = make(api_base="http://127.0.0.1:9/v1", max_attempts=2)
    monkeypatch.setattr(reactions, "_answered", {"http://127.0.0.1:9/v1"})
    error = failure(chat, "a")
    assert error.kind is FailureKind.CONNECTION
    assert str(error).endswith("(attempts: 2)")


@pytest.mark.timing
def test_hanging_call_times_out(make: Any, server: Server) -> None:
    one(make(), "first")  # the first call imports litellm, which takes seconds
    server.delay_s["a"] = 5.0
    started = time.monotonic()
    assert failure(make(timeout_s=0.3, max_attempts=2), "a").kind is FailureKind.TIMEOUT
    assert 0.6 <= time.monotonic() - started < 3.0
    assert len(server.times("a")) == 2


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(50):
        await response.write(b" ")
        await asyncio.sleep(0.1)
    return response


@pytest.mark.timing
def test_slowly_dripping_response_times_out(make: Any, server: Server) -> None:
    """Regular single bytes keep a time-out per read from expiring."""
    one(make(), "first")  # as above
    server.script["a"] = [drip]
    started = time.monotonic()
    assert failure(make(timeout_s=0.5, max_attempts=1), "a").kind is FailureKind.TIMEOUT
    assert time.monotonic() - started < 3.0


@pytest.mark.timing
@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_seconds_delay_retry(make: Any, server: Server, code: int) -> None:
    server.script["a"] = [status(code, Retry_After="1"), text("yes")]
    assert one(make(), "a").text == "yes"
    first, second = server.times("a")
    assert 1.0 <= second - first < 2.0


@pytest.mark.timing
def test_retry_after_date_delays_retry(make: Any, server: Server) -> None:
    server.script["a"] = [status(429, Retry_After=formatdate(time.time() + 2, usegmt=True)), text("yes")]
    assert one(make(), "a").text == "yes"
    first, second = server.times("a")
    assert 0.9 <= second - first < 3.0


def test_retry_after_pauses_all_calls(make: Any, server: Server) -> None:
    server.script["a"] = [status(429, Retry_After="1"), text("yes")]
    chat = make()

    async def both() -> None:
        async with chat.connected(), asyncio.TaskGroup() as group:
            group.create_task(chat.complete(request("a")))
            await asyncio.sleep(0.3)
            group.create_task(chat.complete(request("b")))

    asyncio.run(both())
    assert server.times("b")[0] - server.times("a")[0] >= 1.0


def test_limit_without_end_stops_run(make: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider names no wait; more refusals than attempts are no reason to lose a row."""
    monkeypatch.setattr(client, "MAX_TOTAL_WAIT_S", 0.3)
    server.script["a"] = [status(429)]
    with pytest.raises(EndpointError, match=r"rate limit: 429 .*\(attempts: \d\).*No row is lost"):
        one(make(max_attempts=1), "a")
    assert len(server.seen) >= 4


def test_limits_per_minute_take_no_attempt(make: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(reactions, "TOLD_WAIT_S", 0.05)
    monkeypatch.setattr(reactions.console, "print", lambda line, **_: said.append(line))
    server.script["a"] = [*[status(429, Retry_After="0.1")] * 3, status(500), text("yes")]
    assert one(make(max_attempts=2), "a").text == "yes"
    assert len(server.seen) == 5
    assert re.fullmatch(r"teacher: calls of openai/m wait \d+ s, until [\d:]{8}, for a pause .*429.*", said[0])


@pytest.mark.parametrize("use_litellm", [False, True])
def test_extra_headers_reach_the_endpoint(server: Server, call_store: CallStore, use_litellm: bool) -> None:
    teams: list[str | None] = []

    def answer(request: web.Request) -> web.Response:
        teams.append(request.headers.get("X-Team"))
        return web.json_response(loopback.completion("yes"))

    server.script["a"] = [answer]
    extra = {"extra_headers": {"X-Team": "tapir"}}
    config = LLMConfig(model="openai/m", api_base=server.base, use_litellm=use_litellm, extra_params=extra)
    assert one(Client(config, "teacher", call_store), "a").text == "yes"
    assert teams == ["tapir"]


def test_retry_after_of_an_hour_stops_run(make: Any, server: Server) -> None:
    server.script["a"] = [status(429, Retry_After="3600")]
    with pytest.raises(EndpointError, match=r"rate limit: 429 .*asks to wait 3600 s.*No row is lost"):
        one(make(), "a")
    assert len(server.seen) == 1


def test_retry_waits_grow_with_jitter(make: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def record_sleep(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    server.script["a"] = [status(500)]
    chat = make(max_attempts=8)
    monkeypatch.setattr(client, "FIRST_WAIT_S", 8.0)
    monkeypatch.setattr(client.asyncio, "sleep", record_sleep)
    failure(chat, "a")
    waits = [seconds for seconds in slept if seconds >= 4.0]
    assert all(4.0 * 2**n <= wait <= 8.0 * 2**n for n, wait in enumerate(waits[:5]))
    assert len(waits) == 7
    assert max(waits) <= client.MAX_WAIT_S
    assert len(set(waits)) == len(waits)


def test_empty_completion_is_paid_and_not_cached(make: Any, server: Server, ledger: Ledger) -> None:
    server.script["a"] = [text(""), text(""), text(""), text("yes")]
    chat = make()
    assert failure(chat, "a").kind is FailureKind.EMPTY
    assert ledger.spent_by_scope() == Spend(calls=3, prompt_tokens=15, completion_tokens=6, usd=None)
    assert one(chat, "a").text == "yes"


def test_empty_completion_cut_at_limit_is_returned(make: Any, server: Server) -> None:
    server.script["a"] = [text("", "length")]
    completion = one(make(), "a")
    assert (completion.text, completion.finish_reason, len(server.seen)) == ("", "length", 1)


def test_filtered_completion_is_paid_and_not_cached(make: Any, server: Server, ledger: Ledger) -> None:
    server.script["a"] = [text("I sh", "content_filter")]
    chat = make()
    assert failure(chat, "a").kind is FailureKind.FILTERED
    assert (len(server.seen), ledger.spent_by_scope().calls) == (1, 1)
    failure(chat, "a")
    assert len(server.seen) == 2


def test_completion_cut_at_limit_is_returned(make: Any, server: Server) -> None:
    server.script["a"] = [text("It was a dark and", "length")]
    assert one(make(), "a").finish_reason == "length"


def test_lone_surrogate_is_replaced(make: Any, server: Server) -> None:
    server.script["a"] = [text("a\ud800b")]
    assert one(make(), "a").text == "a?b"


def test_unknown_price_is_none(make: Any, ledger: Ledger) -> None:
    assert one(make(), "a").usage.usd is None
    assert ledger.spent_by_scope().usd is None


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": -5, "completion_tokens": None}, {"prompt_tokens": "many"}])
def test_missing_usage_is_estimated(make: Any, server: Server, ledger: Ledger, usage: Any) -> None:
    server.script["a"] = [lambda _: web.json_response({**loopback.completion("yes" * 100), "usage": usage})]
    paid = one(make(usd_per_million_input=1.0, usd_per_million_output=1.0), "a").usage
    assert paid.estimated
    assert 1 <= paid.prompt_tokens <= 20
    assert 75 <= paid.completion_tokens <= 150
    assert ledger.spent_by_scope().usd == pytest.approx((paid.prompt_tokens + paid.completion_tokens) * 1e-6)
    assert [(row.kind, row.count) for row in ledger.failure_counts()] == [(FailureKind.NO_USAGE, 1)]


def test_model_can_be_configured_as_free(make: Any) -> None:
    assert one(make(usd_per_million_input=0.0, usd_per_million_output=0.0), "a").usage.usd == 0.0


def test_api_key_is_read_from_environment(make: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPIR_TEST_KEY", "s3cret")
    chat = make(api_key_env="TAPIR_TEST_KEY")
    one(chat, "a")
    assert server.keys == ["Bearer s3cret"]
    assert "s3cret" not in str(chat.identity())


def test_key_that_a_reply_repeats_is_not_kept(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPIR_TEST_KEY", "s3cret-q7Zk_Wv93xT")
    assert one(make(api_key_env="TAPIR_TEST_KEY"), "say s3cret-q7Zk_Wv93xT").text == f"re: say {HIDDEN}"


def test_provider_key_is_not_sent_to_custom_api_base(
    make: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "for openai only")
    one(make(), "a")
    assert server.keys == ["Bearer none"]


def test_missing_api_key_fails_before_first_call(make: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAPIR_TEST_KEY", raising=False)
    chat = make(api_key_env="TAPIR_TEST_KEY")
    with pytest.raises(ConfigError, match=r"teacher: the environment variable TAPIR_TEST_KEY .* is not set"):
        chat.check()
    with pytest.raises(ConfigError, match="TAPIR_TEST_KEY"):
        ask(chat, "a", "b")
    assert server.seen == []


def test_reserved_extra_params_are_rejected(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"extra_params\.num_retries is reserved.*\n.*extra_params\.temperature"):
        make(extra_params={"temperature": 1.0, "num_retries": 3, "top_p": 1.0}).check()


def test_usd_budget_requires_known_price(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"spend\.max_usd needs a price, but that of openai/m is unknown"):
        make().check(priced=True)
    make().check()
    make(usd_per_million_input=0.0, usd_per_million_output=0.0).check(priced=True)


def test_cached_completions_need_no_api_key(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one(make(), "a")
    monkeypatch.delenv("TAPIR_TEST_KEY", raising=False)
    assert one(make(api_key_env="TAPIR_TEST_KEY"), "a").text == "re: a"


def test_identity_holds_what_changes_completions(make: Any, server: Server, call_store: CallStore) -> None:
    chat = make(extra_params={"top_p": 0.5}, concurrency=2, usd_per_million_input=1.0)
    expected = {"model": "openai/m", "api_base": server.base, "options": {"top_p": 0.5}}
    assert chat.identity() == expected
    versioned = Client(chat._config, "x", call_store, version="abc")
    assert versioned.identity() == {**expected, "version": "abc"}
    assert cache_key(versioned.identity(), request("a")) != cache_key(expected, request("a"))


def test_prepare_runs_once_before_first_litellm_call(server: Server, call_store: CallStore) -> None:
    calls: list[int] = []
    config = LLMConfig(model="openai/m", api_base=server.base, use_litellm=True)
    chat = Client(config, "teacher", call_store, prepare=lambda: calls.append(len(server.seen)))
    ask(chat, "a", "b")
    ask(chat, "c")
    assert calls == [0]


def test_completion_is_on_disk_before_it_is_returned(make: Any, call_store: CallStore, tmp_path: Path) -> None:
    chat = make()
    one(chat, "a")
    other = CallStore(tmp_path / "call_store", SpendScope("other"), SpendConfig())
    stored = other.cache.get(cache_key(chat.identity(), request("a")))
    other.close()
    assert stored is not None
    assert stored.text == "re: a"


SCRIPT = """
import asyncio, os, sys
from pathlib import Path
from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.llm import client, reactions
from tapir_exp.llm.executor import run_requests
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Message
from tapir_exp.llm.ledger import SpendScope
assert "litellm" not in sys.modules
client.FIRST_WAIT_S = 0.01
call_store = CallStore(Path(sys.argv[2]), SpendScope("run"), SpendConfig())
config = LLMConfig(model="openai/m", api_base=sys.argv[1], max_attempts=2, use_litellm=True)
chat = client.Client(config, "t", call_store)
results = []
for turn in range(4):
    requests = [ChatRequest(messages=(Message(role="user", content=f"{turn}.{n}"),), max_tokens=9) for n in range(8)]
    results += run_requests(chat, requests, lambda reply: reply.text, label="test", concurrency=4, max_failure_rate=1.0)
print(sum(result.failure is None for result in results), len(os.listdir("/proc/self/fd")) < 100)
"""


@pytest.mark.slow
def test_litellm_prints_nothing_and_leaks_no_sockets(server: Server, tmp_path: Path) -> None:
    server.script["1.1"], server.script["2.1"] = [status(500)], [status(400)]
    command = [sys.executable, "-c", SCRIPT, server.base, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "30 True\n", "")


def test_litellm_log_is_disabled() -> None:
    load_litellm()
    assert not logging.getLogger("LiteLLM").isEnabledFor(logging.ERROR)
