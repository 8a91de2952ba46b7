"""Transport to OpenAI-compatible endpoints (OpenAI, vLLM, llama.cpp, Ollama, ...) over one pooled HTTP session.

It takes about a tenth of litellm's CPU time per call (benchmarks/llm_client), which limits the throughput of local
servers and of providers with high rate limits.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import aiohttp

from tapir_exp.config import LLMConfig
from tapir_exp.llm.chat import ChatRequest, TokenLogprob
from tapir_exp.llm.failures import CallError, FailureKind, error_from_status, redact
from tapir_exp.llm.transport import RawCompletion, drop_surrogates, retry_after_s

OPENAI_API_BASE = "https://api.openai.com/v1"
OPENAI_PREFIXES = ("openai/", "hosted_vllm/")
"""Prefixes of the models that are reached through this protocol."""

MAX_LINE_BYTES = 2**23
"""Longest line of a batch result file, which is read line by line."""
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
        self._base = (config.api_base or OPENAI_API_BASE).rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Open the session, with one connection per concurrent call."""
        # A session is bound to the event loop in which it is opened.
        async with open_session(self._config, self._key) as self._session:
            try:
                yield
            finally:
                self._session = None

    async def send(self, request: ChatRequest) -> RawCompletion:
        """Send a request once.

        Raises:
            CallError: If the call fails.
        """
        assert self._session is not None, "call send within connected"
        try:
            async with self._session.post(f"{self._base}/chat/completions", json=self.body_of(request)) as response:
                return read_response(response.status, response.headers, await response.read(), self._key)
        except TimeoutError as error:
            raise CallError(FailureKind.TIMEOUT, f"no response within {self._config.timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            raise CallError(FailureKind.CONNECTION, redact(f"{type(error).__name__}: {error}", self._key)) from None

    def body_of(self, request: ChatRequest) -> dict[str, Any]:
        """Return the JSON body of a request."""
        # OpenAI renamed the length limit; other servers know the earlier name only.
        limit = "max_completion_tokens" if self._base == OPENAI_API_BASE else "max_tokens"
        params = dict(self._config.extra_params)
        extra = params.pop("extra_body", {})  # litellm's place for parameters that OpenAI does not have
        return {
            **params,
            **extra,
            "model": self._config.model.partition("/")[2],
            "messages": [message.model_dump() for message in request.messages],
            limit: request.max_tokens,
            "temperature": request.temperature,
            **({"logprobs": True, "top_logprobs": request.top_logprobs} if request.top_logprobs else {}),
        }


def open_session(config: LLMConfig, key: str | None) -> aiohttp.ClientSession:
    """Open a session with the endpoint's key and time-out, for use within one event loop."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=config.concurrency),
        timeout=aiohttp.ClientTimeout(total=config.timeout_s),
        read_bufsize=MAX_LINE_BYTES,
        headers={"Authorization": f"Bearer {key}"} if key else {},
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
        raise error_from_status(status, _message_of(text), retry_after_s(headers), key)
    try:
        return read_completion(json.loads(text))
    except PARSE_ERRORS as error:
        # A web page usually means a proxy or a wrong api_base.
        page = "a web page" if text.lstrip().startswith("<") else f"{type(error).__name__}: {error}"
        raise CallError(FailureKind.MALFORMED, redact(f"{page}: {text}", key)) from None


def read_completion(body: Mapping[str, Any]) -> RawCompletion:
    """Parse the JSON body of a completion. Raises one of PARSE_ERRORS if it has another form."""
    choice = body["choices"][0]
    usage = body.get("usage") or {}
    return RawCompletion(
        text=drop_surrogates(choice["message"].get("content") or ""),
        finish_reason=drop_surrogates(choice.get("finish_reason") or "stop"),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        top_logprobs=_top_logprobs(choice.get("logprobs") or {}),
    )


def _top_logprobs(logprobs: Mapping[str, Any]) -> tuple[tuple[TokenLogprob, ...], ...]:
    positions = logprobs.get("content") or ()
    return tuple(
        tuple(
            TokenLogprob(token=drop_surrogates(top["token"]), logprob=top["logprob"])
            for top in position["top_logprobs"]
        )
        for position in positions
    )


def _message_of(text: str) -> str:
    """Return message and code of a JSON error; any other text unchanged."""
    try:
        error = json.loads(text)["error"]
        return f"{error['message']} {error.get('code') or ''}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return text
