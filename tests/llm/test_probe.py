"""One token tells which part of an endpoint is wrong: host, port, scheme, path, model, key or account."""

import socket
import time
from typing import Any

import pytest
from aiohttp import web
from loopback import Responder, Server, html, status, text

from tapir_exp.config import LLMConfig
from tapir_exp.llm.probe import REQUEST, Probe, probe_all

PROMPT = REQUEST.messages[0].content


def refusal(code: int, message: str) -> Responder:
    return lambda _: web.json_response({"error": {"message": message}}, status=code)


def probe(server: Server, *responders: Responder, **changes: Any) -> Probe:
    server.script[PROMPT] = list(responders)
    settings: dict[str, Any] = {"model": "openai/m", "api_base": server.base, **changes}
    return probe_all([("teacher", LLMConfig(**settings))])[0]


def test_answer_is_no_problem_and_its_price_is_known(server: Server) -> None:
    found = probe(server, text("OK"), usd_per_million_input=1.0, usd_per_million_output=2.0)
    assert (found.problem, found.note) == ("", "")
    assert found.usage is not None
    assert found.usage.usd == pytest.approx(9e-6)
    assert server.bodies[-1]["max_tokens"] == 1


@pytest.mark.parametrize(
    ("responder", "words"),
    [
        (refusal(401, "Incorrect API key provided"), ["does not accept no key", "openai/m", "api_key_env"]),
        (refusal(404, "The model `m` does not exist"), ["does not know teacher.llm.model = openai/m"]),
        (refusal(404, "Not Found"), ["the path of teacher.llm.api_base", "most end in /v1"]),
        (refusal(402, "Insufficient credits"), ["the account or its quota is used up"]),
        (html(200), ["replies, but with no completion", "/v1"]),
    ],
)
def test_refusal_names_what_is_wrong(server: Server, responder: Responder, words: list[str]) -> None:
    found = probe(server, responder)
    assert [word for word in [f"127.0.0.1:{server.base.split(':')[2][:-3]}", *words] if word not in found.problem] == []


@pytest.mark.parametrize("responder", [status(429), status(503), status(500), text("", "length")])
def test_passing_failure_is_no_problem(server: Server, responder: Responder) -> None:
    assert probe(server, responder).problem == ""


def test_refused_parameter_is_renamed_and_the_call_repeated(server: Server) -> None:
    found = probe(server, refusal(400, "Unsupported parameter: max_tokens; use max_completion_tokens"), text("OK"))
    assert found.problem == ""
    assert server.bodies[-1]["max_completion_tokens"] == 1


def test_missing_key_is_named_before_any_call(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    found = probe(server, text("OK"), api_key_env="NO_SUCH_KEY")
    assert "NO_SUCH_KEY (teacher.llm.api_key_env) is not set" in found.problem
    assert server.seen == []


def test_wrong_port_scheme_and_host_are_told_apart_in_seconds(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    addresses = {
        f"nothing listens on port {port} of 127.0.0.1": f"http://127.0.0.1:{port}/v1",
        "speaks no TLS": server.base.replace("http:", "https:"),
        "the host no-such-host.invalid is not known": "http://no-such-host.invalid:8000/v1",
    }
    started = time.monotonic()
    found = probe_all([("judge", LLMConfig(model="openai/m", api_base=base)) for base in addresses.values()])
    assert time.monotonic() - started < 30
    for expected, result in zip(addresses, found, strict=True):
        assert expected in result.problem
        assert "judge.llm.api_base" in result.problem
