"""Transport to OpenAI-compatible endpoints (OpenAI, vLLM, llama.cpp, Ollama, ...) over one pooled HTTP session.

It takes about a tenth of litellm's CPU time per call (benchmarks/llm_client). That CPU time limits the throughput of
local servers and of providers with high rate limits.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import aiohttp
from pydantic_core import PydanticSerializationError, from_json, to_json

from tapir_exp.config import LLMConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.llm.chat import ChatRequest, TokenLogprob
from tapir_exp.llm.failures import CallError, FailureKind, redact
from tapir_exp.llm.finish_reasons import read_finish_reason
from tapir_exp.llm.http_post import READ_BYTES, Post, open_post
from tapir_exp.llm.parameters import NEW_LIMIT, OLD_LIMIT, EndpointParameters
from tapir_exp.llm.provider_errors import read_embedded_error, read_error
from tapir_exp.llm.proxies import describe_address, environment_proxy
from tapir_exp.llm.reply_size import max_reply_bytes
from tapir_exp.llm.transport import RawCompletion, drop_surrogates
from tapir_exp.llm.usage import read_usage

OPENAI_API_BASE = "https://api.openai.com/v1"
OPENAI_PREFIXES = ("openai/", "hosted_vllm/")
"""Prefixes of the models that are reached through this protocol."""

EXTRA_HEADERS = "extra_headers"
"""The option of litellm and of OpenAI's client for further HTTP headers."""
CONNECT_TIMEOUT_S = 10.0
"""Seconds until the endpoint must have accepted a connection."""
NO_CONNECTION = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
)
"""Exceptions that mean that the endpoint was not reached at all."""
PARSE_ERRORS = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)
"""Exceptions of parsing a body that is not a completion."""


def is_openai_compatible(model: str) -> bool:
    """Return True if a model name of litellm belongs to an OpenAI-compatible endpoint."""
    return model.startswith(OPENAI_PREFIXES)


class HttpTransport:
    """Transport over HTTP. The session belongs to one event loop."""

    def __init__(self, config: LLMConfig, key: str | None) -> None:
        self._config = config
        self._key = key
        self._base = base_of(config)
        # OpenAI renamed the length limit; most other servers accept the earlier name only.
        self._parameters = EndpointParameters(config, NEW_LIMIT if self._base == OPENAI_API_BASE else OLD_LIMIT)
        self._url = f"{self._base}/chat/completions"
        params = {name: value for name, value in config.extra_params.items() if name != EXTRA_HEADERS}
        extra = params.pop("extra_body", {})  # litellm's place for parameters that OpenAI does not have
        self._same_for_all = {**params, **extra, "model": config.model.partition("/")[2]}
        self._post: Post | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Open the session, with one connection per concurrent call."""
        # A session is bound to the event loop in which it is opened.
        async with open_session(self._config, self._key) as session:
            self._post = open_post(session, self._url, environment_proxy(self._base))
            try:
                yield
            finally:
                self._post = None

    async def send(self, request: ChatRequest) -> RawCompletion:
        """Send a request once.

        Raises:
            CallError: If the call fails.
        """
        assert self._post is not None, "call send within connected"
        body = _dump_json(self.body_of(request))
        try:
            reply = await self._post.send(body, max_reply_bytes(request, self._config.reasoning_tokens))
        except NO_CONNECTION as error:
            reason = redact(f"no connection to {describe_address(self._base)}: {_reason_of(error)}", self._key)
            raise CallError(FailureKind.CONNECTION, reason, unreachable=True) from None
        except TimeoutError as error:
            raise CallError(FailureKind.TIMEOUT, f"no response within {self._config.timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            raise CallError(FailureKind.CONNECTION, redact(f"{type(error).__name__}: {error}", self._key)) from None
        return read_response(reply.status, reply.headers, reply.body, self._key)

    @property
    def parameters(self) -> EndpointParameters:
        """Return the endpoint's names of parameters."""
        return self._parameters

    def body_of(self, request: ChatRequest) -> dict[str, Any]:
        """Return the JSON body of a request."""
        messages = [{"role": message.role, "content": message.content} for message in request.messages]
        return {**self._same_for_all, "messages": messages, **self._parameters.of(request)}


def base_of(config: LLMConfig) -> str:
    """Return the base address of an OpenAI-compatible endpoint."""
    return (config.api_base or OPENAI_API_BASE).rstrip("/")


def extra_headers(config: LLMConfig) -> dict[str, str]:
    """Return the headers of `extra_params.extra_headers`, which litellm sends as headers, too.

    Raises:
        ConfigError: If it is not a mapping of names to one-line texts.
    """
    headers = config.extra_params.get(EXTRA_HEADERS) or {}
    if not isinstance(headers, dict) or any(set("\r\n\0") & set(f"{name}{value}") for name, value in headers.items()):
        raise ConfigError([f"llm.extra_params.{EXTRA_HEADERS}: expected a mapping of names to texts of one line each"])
    return {str(name): str(value) for name, value in headers.items()}


def open_session(config: LLMConfig, key: str | None, buffered_bytes: int = READ_BYTES) -> aiohttp.ClientSession:
    """Open a session with the endpoint's key, time-out and proxy, for use within one event loop.

    Args:
        config: The model and its endpoint.
        key: The API key.
        buffered_bytes: About half of the inflated bytes that are buffered before they are read, and the longest line.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=config.most_in_flight),
        timeout=aiohttp.ClientTimeout(total=config.timeout_s, sock_connect=CONNECT_TIMEOUT_S),
        proxy=environment_proxy(base_of(config)),
        read_bufsize=buffered_bytes,
        headers={**extra_headers(config), **({"Authorization": f"Bearer {key}"} if key else {})},
    )


def read_response(status: int, headers: Mapping[str, str], body: bytes, key: str | None = None) -> RawCompletion:
    """Parse an HTTP response.

    Args:
        status: The HTTP status.
        headers: The response headers.
        body: The response body.
        key: The API key, which is removed from error messages.

    Raises:
        CallError: If the response is an error, or not a completion.
    """
    # A broken encoding must not hide the error message that the body may hold.
    text = body.decode(errors="replace")
    if status != HTTPStatus.OK:
        raise read_error(status, text, headers, key)
    try:
        parsed = _load_json(text)
        if (embedded := read_embedded_error(parsed, headers, key)) is not None:
            raise embedded
        return read_completion(parsed)
    except PARSE_ERRORS as error:
        # A web page usually means a proxy or a wrong api_base.
        page = "a web page" if text.lstrip().startswith("<") else f"{type(error).__name__}: {error}"
        raise CallError(FailureKind.MALFORMED, redact(f"{page}: {text}", key)) from None


def _dump_json(body: Mapping[str, Any]) -> bytes:
    try:
        return to_json(body)
    except PydanticSerializationError:
        return json.dumps(body).encode()  # which writes half of a surrogate pair, too


def _load_json(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        return json.loads(text)  # which takes half of a surrogate pair, too


def read_completion(body: Mapping[str, Any]) -> RawCompletion:
    """Parse the JSON body of a completion. Raises one of PARSE_ERRORS if it has another form."""
    choice, counts = body["choices"][0], read_usage(body.get("usage"))
    message = choice["message"]
    text, thoughts = _read_content(message.get("content"))
    beside = message.get("reasoning_content") or message.get("reasoning") or thoughts
    return RawCompletion(
        text=drop_surrogates(text),
        finish_reason=drop_surrogates(read_finish_reason(choice.get("finish_reason"))),
        prompt_tokens=counts.prompt,
        completion_tokens=counts.completion,
        top_logprobs=_top_logprobs(choice.get("logprobs") or {}),
        reasoning=drop_surrogates(beside) if isinstance(beside, str) else "",
    )


def _read_content(content: Any) -> tuple[str, str]:
    """Return text and thoughts of a message, whose content is a text, null, or a list of parts of both kinds."""
    if not isinstance(content, list):
        return content or "", ""
    texts, thoughts = [], []
    for part in content:
        if part.get("type") in {"thinking", "reasoning"}:
            inner = part.get("thinking") or part.get("reasoning") or part.get("text") or ""
            thoughts.append(inner if isinstance(inner, str) else _read_content(inner)[0])
        elif part.get("type") in {"text", "output_text"}:
            texts.append(part["text"])
    return "".join(texts), "\n".join(thoughts)


def _top_logprobs(logprobs: Mapping[str, Any]) -> tuple[tuple[TokenLogprob, ...], ...]:
    positions = logprobs.get("content") or ()
    return tuple(
        tuple(
            TokenLogprob(token=drop_surrogates(top["token"]), logprob=top["logprob"])
            for top in position["top_logprobs"]
        )
        for position in positions
    )


def _reason_of(error: Exception) -> str:
    """Return the cause of a failed connection, without the address, which the message names already."""
    cause = getattr(error, "os_error", None)
    text = str(getattr(cause, "strerror", None) or cause or error) or type(error).__name__
    return f"{type(error).__name__}: {text}"
