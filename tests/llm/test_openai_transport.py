"""HTTP transport: the request body, and parsing of any response."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import USAGE, completion, request

from tapir_exp.config import LLMConfig
from tapir_exp.llm.chat import TokenLogprob
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.openai_transport import (
    OPENAI_API_BASE,
    HttpTransport,
    _dump_json,
    is_openai_compatible,
    read_response,
)
from tapir_exp.llm.transport import RawCompletion

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def body_of(config: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return HttpTransport(LLMConfig(**{"model": "openai/m", **config}), None).body_of(request("Why?", **changes))


def read(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None, key: str | None = None
) -> RawCompletion:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_response(status, headers or {}, text, key)


def failure(*arguments: Any, **named: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        read(*arguments, **named)
    return caught.value


@pytest.mark.parametrize(
    ("model", "direct"),
    [("openai/gpt-4o", True), ("hosted_vllm/a/b", True), ("dashscope/q", False), ("gpt-4o", False), ("lab/t", False)],
)
def test_is_openai_compatible_checks_prefix(model: str, direct: bool) -> None:
    assert is_openai_compatible(model) is direct


def test_body_holds_request_and_extra_params() -> None:
    extra_params = {"top_p": 0.5, "extra_body": {"min_p": 0.1}}
    config = {"model": "hosted_vllm/org/model", "api_base": "http://localhost/v1", "extra_params": extra_params}
    assert body_of(config, temperature=0.7, sample=3) == {
        "model": "org/model",
        "messages": [{"role": "user", "content": "Why?"}],
        "max_tokens": 20,
        "temperature": 0.7,
        "top_p": 0.5,
        "min_p": 0.1,
    }
    assert extra_params["extra_body"] == {"min_p": 0.1}


@pytest.mark.parametrize("text", ["plain", "é\u2028", "half a pair \ud800"])
def test_any_text_of_a_request_is_json(text: str) -> None:
    assert json.loads(_dump_json({"messages": [text], "n": 1})) == {"messages": [text], "n": 1}


@pytest.mark.parametrize("base", [None, OPENAI_API_BASE, OPENAI_API_BASE + "/"])
def test_length_limit_is_renamed_for_openai_only(base: str | None) -> None:
    body = body_of({"api_base": base})
    assert body["max_completion_tokens"] == 20
    assert "max_tokens" not in body
    assert "max_completion_tokens" not in body_of({"api_base": "http://localhost/v1"})


def test_top_logprobs_are_requested_and_parsed() -> None:
    assert {"logprobs": True, "top_logprobs": 5}.items() <= body_of({}, top_logprobs=5).items()
    assert "logprobs" not in body_of({})
    tops = [{"token": "A", "logprob": -0.1, "bytes": [65]}, {"token": "B\ud800", "logprob": -2}]
    body = completion("A", usage=USAGE)
    body["choices"][0]["logprobs"] = {"content": [{"token": "A", "logprob": -0.1, "top_logprobs": tops}]}
    expected = (TokenLogprob(token="A", logprob=-0.1), TokenLogprob(token="B?", logprob=-2.0))
    assert read(body).top_logprobs == (expected,)


def test_completion_is_parsed() -> None:
    assert read(completion("Because.", "length", USAGE)) == RawCompletion("Because.", "length", **USAGE)


@pytest.mark.parametrize("content", [None, ""])
def test_missing_fields_have_defaults(content: str | None) -> None:
    body = completion(content)
    assert read(body) == RawCompletion("", "stop", 0, 0)
    assert read({**completion("a"), "usage": None}) == RawCompletion("a", "stop", 0, 0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSONDecodeError"),
        (b"<!doctype html><p>Sign in", "a web page: <!doctype html>"),
        (b'{"choices": [{"message": {"content": "It was', "JSONDecodeError"),
        (b"\xff\xfe\x00", "JSONDecodeError"),
        (b"[" * 100_000, "RecursionError"),
        (None, "TypeError"),
        ([], "TypeError"),
        ("text", "TypeError"),
        ({}, "KeyError: 'choices'"),
        ({"choices": []}, "IndexError"),
        ({"choices": None}, "TypeError"),
        ({"choices": [{}]}, "KeyError: 'message'"),
        ({"choices": [{"message": None}]}, "AttributeError"),
        ({"choices": [{"message": "hm"}]}, "AttributeError"),
        ({"choices": [{"message": {"content": ["a"]}}]}, "AttributeError"),
        ({"choices": [{"message": {"content": "a"}, "logprobs": {"content": [{}]}}]}, "KeyError: 'top_logprobs'"),
        (
            {"choices": [{"message": {"content": "a"}, "logprobs": {"content": [{"top_logprobs": [{"token": 1}]}]}}]},
            "AttributeError",
        ),
        (
            {"choices": [{"message": {"content": "a"},
              "logprobs": {"content": [{"top_logprobs": [{"token": "A", "logprob": "x"}]}]}}]},
            "ValidationError",
        ),
    ],
)  # fmt: skip
def test_malformed_body_names_the_error(body: Any, message: str) -> None:
    error = failure(body)
    assert error.kind is FailureKind.MALFORMED
    assert message in str(error)
    assert len(str(error)) < 300


@given(json_values, st.sampled_from(["body", "choices", "choice", "message", "content", "finish_reason", "usage"]))
def test_any_json_value_is_parsed_or_rejected(value: Any, field: str) -> None:
    body: Any = completion("a", usage=USAGE)
    match field:
        case "body":
            body = value
        case "choices" | "usage":
            body[field] = value
        case "choice":
            body["choices"] = [value]
        case "message" | "finish_reason":
            body["choices"][0][field] = value
        case _:
            body["choices"][0]["message"]["content"] = value
    try:
        response = read(body)
    except CallError:
        return
    assert isinstance(response.text, str)
    assert isinstance(response.finish_reason, str)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "too long", "code": "context_length_exceeded"}}, "too long context_length_exceeded"),
        ({"error": {"message": "too long"}}, "400 too long"),
        ({"error": "too long"}, "400 too long"),
        ({"detail": "too long"}, "400 too long"),
        (b"too long", "400 too long"),
    ],
)
def test_error_quotes_provider_message(body: Any, message: str) -> None:
    error = failure(body, status=400)
    assert error.kind is FailureKind.REFUSED
    assert message in str(error)


def test_error_does_not_contain_key() -> None:
    body = {"error": {"message": "Incorrect API key: hunter2. Bearer hunter2"}}
    for status in (200, 401, 500):
        assert "hunter2" not in str(failure(body, status=status, key="hunter2"))


def test_retry_after_is_part_of_error() -> None:
    assert failure({}, status=429, headers={"retry-after": "7"}).wait_s == 7.0
    assert failure({}, status=429).wait_s == 0.0
