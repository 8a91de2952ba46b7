"""The table of provider errors: every dialect through both transports, and what the client makes of each scope."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from loopback import Responder, Server, request, text
from serving import serving

from tapir_exp.config import LLMConfig
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.client import Client
from tapir_exp.llm.executor import RequestResult, run_requests
from tapir_exp.llm.failures import CallError, EndpointError, FailureKind
from tapir_exp.llm.litellm_transport import LitellmTransport
from tapir_exp.llm.openai_transport import HttpTransport
from tapir_exp.llm.provider_errors import MAX_TEXT_CHARS, read_error

DIALECTS_FILE = Path(__file__).parent / "data" / "provider_errors.jsonl"


@dataclass(frozen=True)
class Dialect:
    """One error of one provider: its reply, what it means and how long it asks to wait."""

    provider: str
    status: int
    body: Any
    kind: str = ""
    wait_s: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)


DIALECTS = tuple(Dialect(**json.loads(line)) for line in DIALECTS_FILE.read_text(encoding="utf-8").splitlines())
PROVIDERS = tuple(dict.fromkeys(dialect.provider for dialect in DIALECTS))


def responder(dialect: Dialect) -> Responder:
    body = dialect.body if isinstance(dialect.body, str) else json.dumps(dialect.body)
    kind = "text/html" if isinstance(dialect.body, str) else "application/json"
    return lambda _: web.Response(text=body, status=dialect.status, headers=dialect.headers, content_type=kind)


@pytest.fixture(scope="module")
def talker() -> Iterator[Server]:
    """Return a server that answers `n` with the n-th dialect."""
    with serving(Server()) as server:
        server.script = {str(number): [responder(dialect)] for number, dialect in enumerate(DIALECTS)}
        yield server


async def errors_of(transport: Any, prompts: list[str]) -> list[CallError]:
    async def error_of(prompt: str) -> CallError:
        with pytest.raises(CallError) as caught:
            await transport.send(request(prompt))
        return caught.value

    async with transport.connected():
        return await asyncio.gather(*map(error_of, prompts))


@pytest.mark.parametrize("transport", [HttpTransport, LitellmTransport])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_dialect_has_expected_meaning(talker: Server, provider: str, transport: Any) -> None:
    numbers = [number for number, dialect in enumerate(DIALECTS) if dialect.provider == provider]
    sender = transport(LLMConfig(model="openai/m", api_base=talker.base), "none")
    errors = asyncio.run(errors_of(sender, [str(number) for number in numbers]))
    for number, error in zip(numbers, errors, strict=True):
        dialect = DIALECTS[number]
        assert (error.kind, error.wait_s) == (dialect.kind, pytest.approx(dialect.wait_s)), dialect.body


@pytest.mark.parametrize(
    ("status", "text_", "kind"),
    [
        (408, "", FailureKind.TIMEOUT),
        (409, "", FailureKind.SERVER),
        (500, "", FailureKind.SERVER),
        (503, "insufficient_quota", FailureKind.SERVER),
        (402, "", FailureKind.QUOTA),
        (413, "", FailureKind.REFUSED),
        (422, "", FailureKind.REFUSED),
        (302, "", FailureKind.NO_ACCESS),
        (405, "", FailureKind.NO_ACCESS),
        (404, "", FailureKind.NO_ACCESS),
        (451, "", FailureKind.FILTERED),
        (429, "x" * 10_000 + " insufficient_quota", FailureKind.QUOTA),
        (400, "[" * 100_000, FailureKind.REFUSED),
        (400, '{"error": ' * 5_000, FailureKind.REFUSED),
        (429, "x" * 10 * MAX_TEXT_CHARS, FailureKind.RATE_LIMIT),
    ],
)
def test_status_decides_without_known_text(status: int, text_: str, kind: FailureKind) -> None:
    error = read_error(status, text_, {})
    assert error.kind is kind
    assert str(error).startswith(f"{kind.value}: {status}")


def test_echo_of_the_prompt_decides_nothing() -> None:
    detail = [{"loc": ["body", "x"], "msg": "Field required", "input": "insufficient_quota, invalid api key"}]
    assert read_error(422, json.dumps({"detail": detail}), {}).kind is FailureKind.REFUSED


def ask(chat: Client, *prompts: str, tolerance: float = 1.0) -> list[RequestResult[str]]:
    requests = [request(prompt) for prompt in prompts]
    return run_requests(
        chat, requests, lambda reply: reply.text, label="test", concurrency=2, max_failure_rate=tolerance
    )


def scripted(status: int, body: Any, **headers: str) -> Responder:
    return responder(Dialect("", status, body, headers=headers))


def test_row_error_fails_one_row(make: Any, server: Server) -> None:
    server.script["b"] = [scripted(400, {"error": {"message": "flagged", "code": "content_filter"}})]
    results = ask(make(), "a", "b", "c")
    assert [result.failure is None for result in results] == [True, False, True]


@pytest.mark.parametrize("message", ["You exceeded your current quota. Please retry in 0.02s.", "Slow down"])
def test_minute_limit_waits_longer_than_attempts(make: Any, server: Server, message: str) -> None:
    """A limit per minute is no attempt: more refusals than attempts lose no row."""
    limited = scripted(429, {"error": {"message": message}})
    server.script["a"] = [*[limited] * 4, text("yes")]
    assert [result.value for result in ask(make(max_attempts=2), "a")] == ["yes"]


@pytest.mark.parametrize("status", [200, 402, 429])
def test_empty_account_stops_and_resumes(make: Any, server: Server, call_store: CallStore, status: int) -> None:
    body = {"error": {"message": "Insufficient credits", "code": "insufficient_quota"}}
    prompts = [str(number) for number in range(12)]
    server.script = {prompt: [scripted(status, body)] for prompt in prompts[4:]}
    with call_store.ledger.record_stage("stage"), pytest.raises(EndpointError, match=r"quota used up.*No row is lost"):
        ask(make(), *prompts, tolerance=0.0)
    assert call_store.ledger.failed_requests() == []
    asked = len(server.seen)
    assert asked < 12
    server.script = {}
    assert [result.value for result in ask(make(), *prompts)] == [f"re: {prompt}" for prompt in prompts]
    assert len(server.seen) == asked + 8
    assert call_store.ledger.spent_by_scope().calls == 12


def test_configuration_error_stops_with_remedy(make: Any, server: Server) -> None:
    server.script["a"] = [scripted(400, {"error": {"message": "API key not valid", "status": "INVALID_ARGUMENT"}})]
    with pytest.raises(EndpointError, match=r"no access: 400 API key not valid.*Check llm\.model, llm\.api_base"):
        ask(make(), "a", "b")
