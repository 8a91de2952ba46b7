"""Transport to any provider that litellm supports; litellm is imported at the first call, because it takes seconds."""

import asyncio
import importlib
import json
import logging
import os
import socket
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Any

from tapir_exp.config import LLMConfig
from tapir_exp.llm.chat import ChatRequest, TokenLogprob
from tapir_exp.llm.failures import CallError, FailureKind, redact
from tapir_exp.llm.finish_reasons import read_finish_reason
from tapir_exp.llm.openai_transport import PARSE_ERRORS, read_completion
from tapir_exp.llm.parameters import EndpointParameters
from tapir_exp.llm.provider_errors import read_embedded_error, read_error
from tapir_exp.llm.proxies import describe_address, except_loopback
from tapir_exp.llm.reply_size import ReplyTooLarge, bounded_httpx, max_reply_bytes
from tapir_exp.llm.transport import RawCompletion, drop_surrogates
from tapir_exp.llm.usage import read_usage

LAB_PREFIX = "lab/"
"""Prefix of the models of the embedded lab. They receive the sample index as an extra argument."""


@cache
def load_litellm() -> Any:
    """Import litellm without network access and without its log."""
    # Otherwise the import downloads the current price list.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    litellm: Any = importlib.import_module("litellm")
    litellm.suppress_debug_info = True
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    # litellm prints replies that differ from its classes.
    warnings.filterwarnings("ignore", message="Pydantic serializer warnings")
    return litellm


class LitellmTransport:
    """Transport through litellm; its own retries are off, because `Client` retries."""

    def __init__(self, config: LLMConfig, key: str | None, prepare: Callable[[], None] | None = None) -> None:
        """Set up the transport; `prepare` runs once, after litellm is loaded and before the first call."""
        self._config = config
        self._key = key
        self._prepare = prepare
        self._parameters = EndpointParameters(config)

    @property
    def parameters(self) -> EndpointParameters:
        """Return the endpoint's names of parameters."""
        return self._parameters

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Do nothing: litellm manages its own connections."""
        yield

    async def send(self, request: ChatRequest) -> RawCompletion:
        """Send a request once.

        Raises:
            CallError: If the call fails.
        """
        litellm = self._load()
        original: list[Any] = []
        ceiling = max_reply_bytes(request, self._config.reasoning_tokens)
        try:
            # litellm applies its own time-out to each read, not to the call.
            async with asyncio.timeout(self._config.timeout_s):
                with bounded_httpx(ceiling):
                    response = await litellm.acompletion(**self._arguments(request), logger_fn=_keep_original(original))
        except TimeoutError as error:
            raise CallError(FailureKind.TIMEOUT, f"no response within {self._config.timeout_s:g} s") from error
        except Exception as error:  # litellm's errors have no common base
            # litellm fails at some replies of the protocol of OpenAI that can be read.
            if (completion := self._read_original(original)) is not None:
                return completion
            raise self._convert_error(error) from None  # the cause may quote the key
        return self._read_original(original) or _parse_completion(response)

    def _load(self) -> Any:
        except_loopback()
        litellm = load_litellm()
        if self._prepare is not None:
            self._prepare()
            self._prepare = None
        return litellm

    def _arguments(self, request: ChatRequest) -> dict[str, Any]:
        config = self._config
        return {
            **config.extra_params,
            **({"sample": request.sample} if config.model.startswith(LAB_PREFIX) else {}),
            "model": config.model,
            "messages": [message.model_dump() for message in request.messages],
            **self._parameters.of(request),
            "timeout": config.timeout_s,
            "api_base": config.api_base,
            "api_key": self._key,
            "num_retries": 0,
            "max_retries": 0,
        }

    def _read_original(self, original: list[Any]) -> RawCompletion | None:
        """Return the completion of a reply of OpenAI's protocol, as direct calls read it; None for other protocols.

        litellm replaces unknown finish reasons, and null, by `stop`.

        Raises:
            CallError: If the reply holds an error.
        """
        body = original[-1] if original else None
        if not isinstance(body, Mapping) or not ("choices" in body or "error" in body):
            return None
        if (error := read_embedded_error(body, {}, self._key)) is not None:
            raise error
        with suppress(*PARSE_ERRORS):
            return read_completion(body)
        return None

    def _convert_error(self, error: Exception) -> Exception:
        """Convert an exception of litellm into a CallError; one without a status is a bug and is returned unchanged."""
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, ReplyTooLarge):
                return cause
        status = getattr(error, "status_code", None)
        if not isinstance(status, int):
            return error
        if any(isinstance(cause, _NOT_REACHED) or type(cause).__name__ in _NO_CONNECTION for cause in causes):
            base = self._config.api_base
            where = describe_address(base) if base else f"the provider of {self._config.model}"
            detail = redact(f"no connection to {where}: {causes[-1]}", self._key)
            return CallError(FailureKind.CONNECTION, detail, unreachable=True)
        # litellm drops the codes of most errors; the response of the provider has them.
        for response in (getattr(cause, "response", None) for cause in causes):
            with suppress(Exception):  # a response without a body, or one that was not read
                if response is not None and response.text and response.status_code >= 400:
                    return read_error(response.status_code, response.text, response.headers, self._key)
        if type(error).__name__ == "APIConnectionError":
            return CallError(FailureKind.CONNECTION, redact(str(error), self._key))
        headers = getattr(error, "litellm_response_headers", None) or {}
        return read_error(status, str(error), headers, self._key)


_NOT_REACHED = (ConnectionRefusedError, socket.gaierror)
_NO_CONNECTION = frozenset({"ConnectError", "ConnectTimeout", "ProxyError"})
"""Names of httpx's exceptions that mean that the endpoint was not reached at all."""


def _keep_original(original: list[Any]) -> Callable[[Mapping[str, Any]], None]:
    """Return a log function of litellm that keeps the provider's reply."""

    def keep(call: Mapping[str, Any]) -> None:
        reply = call.get("original_response")
        with suppress(ValueError, RecursionError):
            original.append(json.loads(reply) if isinstance(reply, str) else reply)

    return keep


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of its cause, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _parse_completion(response: Any) -> RawCompletion:
    if not response.choices:
        raise CallError(FailureKind.MALFORMED, "the response has no choices")
    choice, counts = response.choices[0], read_usage(getattr(response, "usage", None))
    message = choice.message
    native = (getattr(choice, "provider_specific_fields", None) or {}).get("native_finish_reason")
    return RawCompletion(
        text=drop_surrogates(message.content or ""),
        finish_reason=read_finish_reason(native or choice.finish_reason),
        prompt_tokens=counts.prompt,
        completion_tokens=counts.completion,
        top_logprobs=_top_logprobs(choice),
        reasoning=drop_surrogates(getattr(message, "reasoning_content", None) or ""),
    )


def _top_logprobs(choice: Any) -> tuple[tuple[TokenLogprob, ...], ...]:
    positions = getattr(getattr(choice, "logprobs", None), "content", None) or ()
    return tuple(
        tuple(TokenLogprob(token=drop_surrogates(top.token), logprob=top.logprob) for top in position.top_logprobs)
        for position in positions
    )
