"""The client in both its ways, direct and through the real litellm, against a real server on the loopback interface."""

import asyncio
import logging
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from loopback import PAID, Answer, Server, dropped, html, request, said, status

from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.llm import client
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Completion, Message
from tapir_exp.llm.client import Client
from tapir_exp.llm.executor import RequestResult, run_requests
from tapir_exp.llm.failures import CallError, EndpointError, FailureKind
from tapir_exp.llm.ledger import Ledger, Spend, SpendScope
from tapir_exp.llm.litellm_transport import load_litellm
from tapir_exp.llm.response_cache import cache_key


def ask(chat: Client, *prompts: str) -> list[RequestResult[Completion]]:
    asked = [request(prompt) for prompt in prompts]
    return run_requests(chat, asked, lambda reply: reply, label="test", concurrency=8, max_failure_rate=1.0)


def one(chat: Client, prompt: str, **changes: Any) -> Completion:
    async def within() -> Completion:
        async with chat.connected():
            return await chat.complete(request(prompt, **changes))

    return asyncio.run(within())


def failure(chat: Client, prompt: str) -> CallError:
    with pytest.raises(CallError) as caught:
        one(chat, prompt)
    return caught.value


def test_a_reply_is_what_the_model_said_and_used(make: Any, server: Server, ledger: Ledger) -> None:
    reply = one(make(usd_per_million_input=2.0, usd_per_million_output=10.0), "hello")
    assert (reply.text, reply.finish_reason) == ("re: hello", "stop")
    assert reply.usage.model_dump() == {**PAID, "usd": pytest.approx(30e-6)}
    assert ledger.by_stage() == {"": {"teacher": Spend(calls=1, **PAID, usd=30e-6)}}


def test_the_call_carries_the_request_and_the_options_and_nothing_else(make: Any, server: Server) -> None:
    system = Message(role="system", content="Be brief.")
    turns = (system, *request("hello").messages)
    chat = make(extra_params={"top_p": 0.5, "extra_body": {"min_p": 0.1}})
    asked = [ChatRequest(messages=turns, max_tokens=20, temperature=0.7, sample=3)]
    run_requests(chat, asked, lambda reply: reply, label="test", concurrency=1, max_failure_rate=0.0)
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


def test_what_is_in_the_cache_is_not_asked(make: Any, server: Server, ledger: Ledger) -> None:
    first = ask(make(), "a", "b", "c")
    again = ask(make(concurrency=3, timeout_s=5.0, max_attempts=1, usd_per_million_input=1.0), "a", "b", "c")
    assert [outcome.value for outcome in again] == [outcome.value for outcome in first]
    assert len(server.seen) == 3
    assert (ledger.spent_by_scope().calls, ledger.spent_by_scope().cached) == (3, 3)


def test_another_sample_is_another_call(make: Any, server: Server) -> None:
    chat = make()
    for sample in (0, 1, 1):
        one(chat, "a", sample=sample)
    assert len(server.seen) == 2


def test_identical_requests_in_flight_are_one_call(make: Any, server: Server, ledger: Ledger) -> None:
    server.delay_s["a"] = 0.1
    outcomes = ask(make(), "a", "a", "a", "b")
    assert [outcome.value and outcome.value.text for outcome in outcomes] == ["re: a"] * 3 + ["re: b"]
    assert len(server.times("a")) == 1
    assert (ledger.spent_by_scope().calls, ledger.spent_by_scope().cached) == (2, 2)


def test_identical_requests_in_flight_share_the_error(make: Any, server: Server, ledger: Ledger) -> None:
    server.script["a"], server.delay_s["a"] = [status(400)], 0.1
    outcomes = ask(make(), "a", "a", "a")
    assert all("request refused" in (outcome.failure or "") for outcome in outcomes)
    assert len(server.seen) == 1
    assert ledger.spent_by_scope() == Spend()


def test_who_shares_a_call_does_not_share_the_first_askers_cancellation(make: Any, server: Server) -> None:
    server.delay_s["a"] = 0.3

    async def two(chat: Client) -> Completion:
        async with chat.connected():
            first = asyncio.ensure_future(chat.complete(request("a")))
            await asyncio.sleep(0)
            second = asyncio.ensure_future(chat.complete(request("a")))
            await asyncio.sleep(0.05)
            first.cancel()
            return await second

    assert asyncio.run(two(make())).text == "re: a"
    assert len(server.seen) == 1


def test_a_finished_call_is_no_longer_in_flight(make: Any, server: Server) -> None:
    server.script["a"] = [status(400), said("yes")]
    chat = make()
    failure(chat, "a")
    assert one(chat, "a").text == "yes"


def test_many_event_loops_one_after_the_other(make: Any, server: Server) -> None:
    """litellm keeps its clients by the address of the loop, which the next loop may get."""
    chat = make(max_attempts=1)
    for turn in range(12):
        outcomes = ask(chat, *(f"{turn}.{place}" for place in range(4)))
        assert [outcome.failure for outcome in outcomes] == [None] * 4


@pytest.mark.parametrize("code", [409, 429, 500, 502, 503, 529])
def test_a_passing_failure_is_tried_again(make: Any, server: Server, ledger: Ledger, code: int) -> None:
    server.script["a"] = [status(code), status(code), said("at last")]
    assert one(make(), "a").text == "at last"
    assert len(server.seen) == 3
    assert ledger.spent_by_scope().calls == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (status(429), FailureKind.RATE_LIMIT),
        (status(500), FailureKind.SERVER),
        (html(502), FailureKind.SERVER),
        (said(""), FailureKind.EMPTY),
        (said(" \n"), FailureKind.EMPTY),
        (said(None), FailureKind.EMPTY),
    ],
)
def test_a_lasting_failure_ends_after_so_many_tries(make: Any, server: Server, answer: Answer, kind: Any) -> None:
    server.script["a"] = [answer]
    error = failure(make(), "a")
    assert error.kind is kind
    assert str(error).endswith("(tries: 3)")
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
def test_a_broken_response_is_tried_again(
    make: Any, server: Server, ledger: Ledger, answer: Answer, kind: FailureKind
) -> None:
    server.script["a"] = [answer, said("yes")]
    server.script["b"] = [answer]
    chat = make()
    with ledger.record_stage("stage"):
        assert one(chat, "a").text == "yes"
    if not chat._config.use_litellm:  # litellm calls all of these a server error
        assert [(fault.kind, fault.count) for fault in ledger.failure_counts()] == [(kind, 1)]
        assert failure(chat, "b").kind is kind


@pytest.mark.parametrize("code", [401, 404])
def test_where_every_call_is_refused_the_run_stops(make: Any, server: Server, code: int) -> None:
    server.script = {str(place): [status(code)] for place in range(50)}
    with pytest.raises(EndpointError, match=f"teacher: openai/m refuses every call: no access: {code}"):
        ask(make(), *server.script)
    assert len(server.seen) <= 8


def test_a_quota_that_is_used_up_stops_the_run(make: Any, server: Server) -> None:
    body = {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}
    server.script["a"] = [lambda _: web.json_response(body, status=429)]
    with pytest.raises(EndpointError, match="quota used up"):
        one(make(), "a")
    assert len(server.seen) == 1


@pytest.mark.parametrize("code", [400, 403, 413, 422])
def test_a_refusal_is_not_tried_again(make: Any, server: Server, code: int) -> None:
    server.script["a"] = [status(code)]
    error = failure(make(), "a")
    assert error.kind is FailureKind.REFUSED
    assert f"told to say {code}" in str(error)
    assert len(server.seen) == 1


def test_nobody_listens(make: Any) -> None:
    chat = make(api_base="http://127.0.0.1:9/v1", max_attempts=2)
    kind = FailureKind.CONNECTION if not chat._config.use_litellm else FailureKind.SERVER  # as litellm has it
    assert failure(chat, "a").kind is kind


def test_a_hanging_call_is_given_up(make: Any, server: Server) -> None:
    server.delay_s["a"] = 5.0
    started = time.monotonic()
    assert failure(make(timeout_s=0.3, max_attempts=2), "a").kind is FailureKind.TIMEOUT
    assert 0.6 <= time.monotonic() - started < 3.0
    assert len(server.seen) == 2


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(50):
        await response.write(b" ")
        await asyncio.sleep(0.1)
    return response


def test_a_dripping_call_is_given_up_too(make: Any, server: Server) -> None:
    """A byte now and then keeps a time-out per read from ever firing."""
    server.script["a"] = [drip]
    started = time.monotonic()
    assert failure(make(timeout_s=0.5, max_attempts=1), "a").kind is FailureKind.TIMEOUT
    assert time.monotonic() - started < 3.0


@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_is_honoured(make: Any, server: Server, code: int) -> None:
    server.script["a"] = [status(code, Retry_After="1"), said("yes")]
    assert one(make(), "a").text == "yes"
    first, second = server.times("a")
    assert 1.0 <= second - first < 2.0


def test_retry_after_may_be_a_date(make: Any, server: Server) -> None:
    server.script["a"] = [status(429, Retry_After=formatdate(time.time() + 2, usegmt=True)), said("yes")]
    assert one(make(), "a").text == "yes"
    first, second = server.times("a")
    assert 0.9 <= second - first < 3.0


def test_what_one_call_is_told_holds_for_all(make: Any, server: Server) -> None:
    server.script["a"] = [status(429, Retry_After="1"), said("yes")]
    chat = make()

    async def both() -> None:
        async with chat.connected(), asyncio.TaskGroup() as group:
            group.create_task(chat.complete(request("a")))
            await asyncio.sleep(0.3)
            group.create_task(chat.complete(request("b")))

    asyncio.run(both())
    assert server.times("b")[0] - server.times("a")[0] >= 1.0


def test_a_provider_that_wants_an_hour_ends_the_call(make: Any, server: Server) -> None:
    server.script["a"] = [status(429, Retry_After="3600")]
    error = failure(make(), "a")
    assert error.kind is FailureKind.RATE_LIMIT
    assert "asks to wait 3600 s" in str(error)
    assert len(server.seen) == 1


def test_waits_grow_and_differ(make: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    server.script["a"] = [status(500)]
    chat = make(max_attempts=8)
    monkeypatch.setattr(client, "FIRST_WAIT_S", 8.0)
    monkeypatch.setattr(client.asyncio, "sleep", noted)
    failure(chat, "a")
    waits = [seconds for seconds in slept if seconds >= 4.0]
    assert all(4.0 * 2**n <= wait <= 8.0 * 2**n for n, wait in enumerate(waits[:5]))
    assert len(waits) == 7
    assert max(waits) <= client.MAX_WAIT_S
    assert len(set(waits)) == len(waits)


def test_empty_replies_are_paid_for_and_not_cached(make: Any, server: Server, ledger: Ledger) -> None:
    server.script["a"] = [said(""), said(""), said(""), said("yes")]
    chat = make()
    assert failure(chat, "a").kind is FailureKind.EMPTY
    assert ledger.spent_by_scope() == Spend(calls=3, prompt_tokens=15, completion_tokens=6, usd=None)
    assert one(chat, "a").text == "yes"


def test_a_reply_cut_before_its_first_word_is_left_to_whoever_reads_it(make: Any, server: Server) -> None:
    server.script["a"] = [said("", "length")]
    reply = one(make(), "a")
    assert (reply.text, reply.finish_reason, len(server.seen)) == ("", "length", 1)


def test_filtered_content_is_refused_paid_for_and_not_cached(make: Any, server: Server, ledger: Ledger) -> None:
    server.script["a"] = [said("I sh", "content_filter")]
    chat = make()
    assert failure(chat, "a").kind is FailureKind.FILTERED
    assert (len(server.seen), ledger.spent_by_scope().calls) == (1, 1)
    failure(chat, "a")
    assert len(server.seen) == 2


def test_a_reply_cut_at_its_length_is_returned(make: Any, server: Server) -> None:
    server.script["a"] = [said("It was a dark and", "length")]
    assert one(make(), "a").finish_reason == "length"


def test_a_lone_surrogate_does_not_break_the_run(make: Any, server: Server) -> None:
    server.script["a"] = [said("a\ud800b")]
    assert one(make(), "a").text == "a?b"


def test_an_unknown_price_is_none_never_zero(make: Any, ledger: Ledger) -> None:
    assert one(make(), "a").usage.usd is None
    assert ledger.spent_by_scope().usd is None


def test_unknown_usage_has_an_unknown_price(make: Any, server: Server, ledger: Ledger) -> None:
    server.script["a"] = [said("yes", usage=False)]
    reply = one(make(usd_per_million_input=1.0, usd_per_million_output=1.0), "a")
    assert reply.usage.usd is None
    assert ledger.spent_by_scope().usd is None


def test_a_price_of_nothing_can_be_configured(make: Any) -> None:
    assert one(make(usd_per_million_input=0.0, usd_per_million_output=0.0), "a").usage.usd == 0.0


def test_the_key_is_read_from_the_environment(make: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPIR_TEST_KEY", "s3cret")
    chat = make(api_key_env="TAPIR_TEST_KEY")
    one(chat, "a")
    assert server.keys == ["Bearer s3cret"]
    assert "s3cret" not in str(chat.identity())


def test_the_providers_key_is_not_sent_elsewhere(make: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "for openai only")
    one(make(), "a")
    assert server.keys == ["Bearer none"]


def test_a_missing_key_is_named_before_the_first_call(
    make: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TAPIR_TEST_KEY", raising=False)
    chat = make(api_key_env="TAPIR_TEST_KEY")
    with pytest.raises(ConfigError, match="teacher: the environment variable TAPIR_TEST_KEY"):
        chat.check()
    with pytest.raises(ConfigError, match="TAPIR_TEST_KEY"):
        ask(chat, "a", "b")
    assert server.seen == []


def test_options_may_not_set_what_the_stages_set(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"options\.num_retries.*\n.*options\.temperature"):
        make(extra_params={"temperature": 1.0, "num_retries": 3, "top_p": 1.0}).check()


def test_a_budget_in_usd_needs_a_known_price(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"spend\.max_usd cannot be kept, for the price of openai/m is not known"):
        make().check(priced=True)
    make().check()
    make(usd_per_million_input=0.0, usd_per_million_output=0.0).check(priced=True)


def test_cached_replies_need_no_key(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one(make(), "a")
    monkeypatch.delenv("TAPIR_TEST_KEY", raising=False)
    assert one(make(api_key_env="TAPIR_TEST_KEY"), "a").text == "re: a"


def test_the_identity_is_what_changes_replies(make: Any, server: Server, call_store: CallStore) -> None:
    chat = make(extra_params={"top_p": 0.5}, concurrency=2, usd_per_million_input=1.0)
    expected = {"model": "openai/m", "api_base": server.base, "options": {"top_p": 0.5}}
    assert chat.identity() == expected
    versioned = Client(chat._config, "x", call_store, version="abc")
    assert versioned.identity() == {**expected, "version": "abc"}
    assert cache_key(versioned.identity(), request("a")) != cache_key(expected, request("a"))


def test_prepare_runs_once_before_litellms_first_call(server: Server, call_store: CallStore) -> None:
    calls: list[int] = []
    config = LLMConfig(model="openai/m", api_base=server.base, use_litellm=True)
    chat = Client(config, "teacher", call_store, prepare=lambda: calls.append(len(server.seen)))
    ask(chat, "a", "b")
    ask(chat, "c")
    assert calls == [0]


def test_a_kept_reply_is_on_disk_before_it_is_used(make: Any, call_store: CallStore, tmp_path: Path) -> None:
    chat = make()
    one(chat, "a")
    other = CallStore(tmp_path / "call_store", SpendScope("other"), SpendConfig())
    kept = other.replies.get(cache_key(chat.identity(), request("a")))
    other.close()
    assert kept is not None
    assert kept.text == "re: a"


SCRIPT = """
import asyncio, os, sys
from pathlib import Path
from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.llm import client
from tapir_exp.llm.executor import ask_all
from tapir_exp.llm.call_store import Books
from tapir_exp.llm.chat import ChatRequest, Message
from tapir_exp.llm.ledger import Account
assert "litellm" not in sys.modules
client.FIRST_WAIT_S = 0.01
call_store = Books(Path(sys.argv[2]), Account("run"), SpendConfig())
chat = client.Client(LLMConfig(model="openai/m", api_base=sys.argv[1], max_attempts=2, use_litellm=True), "t", call_store)
heard = []
for turn in range(4):
    asked = [ChatRequest(messages=(Message(role="user", content=f"{turn}.{n}"),), max_tokens=9) for n in range(8)]
    heard += ask_all(chat, asked, lambda reply: reply.text, label="test", concurrency=4, max_failure_rate=1.0)
print(sum(outcome.failure is None for outcome in heard), len(os.listdir("/proc/self/fd")) < 100)
"""


@pytest.mark.slow
def test_litellm_keeps_quiet_also_about_failures_and_at_the_end(server: Server, tmp_path: Path) -> None:
    server.script["1.1"], server.script["2.1"] = [status(500)], [status(400)]
    command = [sys.executable, "-c", SCRIPT, server.base, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "30 True\n", "")


def test_litellms_log_is_off_even_for_what_only_happens_now_and_then() -> None:
    load_litellm()
    assert not logging.getLogger("LiteLLM").isEnabledFor(logging.ERROR)
