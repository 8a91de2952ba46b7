"""Transport to any provider that litellm supports; litellm is imported at the first call, because it takes seconds."""

import asyncio
import importlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from tapir_exp.config import LLMConfig
from tapir_exp.llm.chat import ChatRequest, TokenLogprob
from tapir_exp.llm.failures import CallError, FailureKind, error_from_status, redact
from tapir_exp.llm.transport import RawCompletion, drop_surrogates, retry_after_s

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
    return litellm


class LitellmTransport:
    """Transport through litellm; its own retries are off, because `Client` retries."""

    def __init__(self, config: LLMConfig, key: str | None, prepare: Callable[[], None] | None = None) -> None:
        """Set up the transport; `prepare` runs once, after litellm is loaded and before the first call."""
        self._config = config
        self._key = key
        self._prepare = prepare

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
        try:
            # litellm applies its own time-out to each read, not to the call.
            async with asyncio.timeout(self._config.timeout_s):
                response = await litellm.acompletion(**self._arguments(request))
        except TimeoutError as error:
            raise CallError(FailureKind.TIMEOUT, f"no response within {self._config.timeout_s:g} s") from error
        except Exception as error:  # litellm's errors have no common base
            raise self._convert_error(error) from None  # the cause may quote the key
        return _parse_completion(response)

    def _load(self) -> Any:
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
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            **({"logprobs": True, "top_logprobs": request.top_logprobs} if request.top_logprobs else {}),
            "timeout": config.timeout_s,
            "api_base": config.api_base,
            "api_key": self._key,
            "num_retries": 0,
            "max_retries": 0,
        }

    def _convert_error(self, error: Exception) -> Exception:
        """Convert an exception of litellm into a CallError; one without a status is a bug and is returned unchanged."""
        status = getattr(error, "status_code", None)
        if not isinstance(status, int):
            return error
        if type(error).__name__ == "APIConnectionError":
            return CallError(FailureKind.CONNECTION, redact(str(error), self._key))
        headers = getattr(error, "litellm_response_headers", None) or {}
        return error_from_status(status, str(error), retry_after_s(headers), self._key)


def _parse_completion(response: Any) -> RawCompletion:
    if not response.choices:
        raise CallError(FailureKind.MALFORMED, "the response has no choices")
    choice, usage = response.choices[0], getattr(response, "usage", None)
    return RawCompletion(
        text=drop_surrogates(choice.message.content or ""),
        finish_reason=choice.finish_reason or "stop",
        prompt_tokens=getattr(usage, "prompt_tokens", 0) or 0,
        completion_tokens=getattr(usage, "completion_tokens", 0) or 0,
        top_logprobs=_top_logprobs(choice),
    )


def _top_logprobs(choice: Any) -> tuple[tuple[TokenLogprob, ...], ...]:
    positions = getattr(getattr(choice, "logprobs", None), "content", None) or ()
    return tuple(
        tuple(TokenLogprob(token=drop_surrogates(top.token), logprob=top.logprob) for top in position.top_logprobs)
        for position in positions
    )
