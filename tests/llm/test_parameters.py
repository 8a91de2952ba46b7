"""Names of parameters that an endpoint wants: set, or learnt from its refusal."""

import io
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from calls import failure, one
from loopback import Server, completion, request
from rich.console import Console

from tapir_exp.config import LengthLimit, LLMConfig
from tapir_exp.llm import parameters, reactions
from tapir_exp.llm.failures import EndpointError, FailureKind
from tapir_exp.llm.ledger import Ledger
from tapir_exp.llm.parameters import EndpointParameters

RENAMED = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
NO_TEMPERATURE = (
    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
)
REFUSALS = {
    "OpenAI": (RENAMED, {"max_completion_tokens": 20, "temperature": 0.0}),
    "Mistral": (
        "extra_forbidden body max_tokens Extra inputs are not permitted",
        {"max_completion_tokens": 20, "temperature": 0.0},
    ),
    "OpenAI, temperature": (NO_TEMPERATURE, {"max_tokens": 20}),
    "Anthropic": ("`temperature` is deprecated for this model.", {"max_tokens": 20}),
    "Moonshot": ("invalid temperature: only 1 is allowed for this model", {"max_tokens": 20}),
    "TGI": ("Input validation error: `temperature` must be strictly positive", {"max_tokens": 20, "temperature": 0.01}),
    "litellm": (
        "openai does not support parameters: ['temperature'], for model=x. To drop these, set litellm.drop_params=True",
        {"max_tokens": 20},
    ),
}
OTHER = (
    "max_tokens is too large: 4096. This model supports at most 2048 completion tokens",
    "This model's maximum context length is 2048 tokens. Please reduce max_tokens.",
    "The prompt is not supported",
    "temperature",
)


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(reactions, "console", Console(file=stream))
    return stream


@pytest.fixture(autouse=True)
def nothing_learnt(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(parameters, "_learnt", {})
    return


@pytest.mark.parametrize(("text", "expected"), REFUSALS.values(), ids=REFUSALS)
def test_refusal_teaches_names(text: str, expected: dict[str, Any]) -> None:
    endpoint = EndpointParameters(LLMConfig(model="openai/m", api_base="http://x/v1"))
    assert endpoint.learn(endpoint.dialect, text)
    again = EndpointParameters(LLMConfig(model="openai/m", api_base="http://x/v1"))
    assert again.of(request("a")) == expected
    assert EndpointParameters(LLMConfig(model="openai/n", api_base="http://x/v1")).of(request("a")) != expected


@pytest.mark.parametrize("text", OTHER)
def test_other_refusals_teach_nothing(text: str) -> None:
    endpoint = EndpointParameters(LLMConfig(model="openai/m"))
    assert endpoint.learn(endpoint.dialect, text) is None


def test_names_are_swapped_once() -> None:
    endpoint = EndpointParameters(LLMConfig(model="openai/m"))
    assert endpoint.learn(endpoint.dialect, RENAMED)
    refusal = "Unrecognized request argument supplied: max_completion_tokens"
    assert endpoint.learn(endpoint.dialect, refusal) is None


def test_settings_need_no_refusal() -> None:
    config = LLMConfig(model="openai/m", max_tokens_param=LengthLimit.max_completion_tokens, send_temperature=False)
    assert EndpointParameters(config).of(request("a")) == {"max_completion_tokens": 20}


def refuse(body: dict[str, Any]) -> web.Response:
    """Refuse what a reasoning model of OpenAI refuses."""
    message = RENAMED if "max_tokens" in body else NO_TEMPERATURE if body.get("temperature", 1) != 1 else None
    if message is None:
        return web.json_response(completion("yes"))
    return web.json_response({"error": {"message": message, "code": "unsupported_parameter"}}, status=400)


async def reasoning_model(http: web.Request) -> web.StreamResponse:
    return refuse(await http.json())


def test_endpoint_of_reasoning_model_is_learnt(make: Any, server: Server, ledger: Ledger, output: io.StringIO) -> None:
    server.script = {"a": [reasoning_model], "b": [reasoning_model]}
    assert one(make(max_attempts=1), "a").text == "yes"
    assert one(make(max_attempts=1), "b").text == "yes"
    assert len(server.seen) == 4
    assert [row for row in ledger.failure_counts() if row.kind is not FailureKind.NO_USAGE] == []
    assert output.getvalue().count("takes max_completion_tokens in place of max_tokens") == 1


@pytest.mark.parametrize("message", ["Unknown parameter: 'top_k'.", "extra_forbidden body top_k: not permitted"])
def test_refused_extra_parameter_stops_run(make: Any, server: Server, message: str) -> None:
    server.script["a"] = [lambda _: web.json_response({"error": {"message": message}}, status=400)]
    with pytest.raises(EndpointError, match=r"parameter refused: 400 .*top_k.*llm\.extra_params"):
        one(make(extra_params={"top_k": 5}), "a")


def test_refusal_of_one_prompt_fails_its_row(make: Any, server: Server) -> None:
    server.script["a"] = [lambda _: web.json_response({"error": {"message": OTHER[0]}}, status=400)]
    assert failure(make(), "a").kind is FailureKind.REFUSED
