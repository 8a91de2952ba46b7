"""Calls to any provider that litellm knows; it is imported before the first call only, since that takes seconds."""

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
"""How the models of the embedded lab begin: they are free, and told which draw of a prompt is wanted."""


@cache
def load_litellm() -> Any:
    """Import litellm so that it neither fetches its price list from the network nor talks to the terminal."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    litellm: Any = importlib.import_module("litellm")
    litellm.suppress_debug_info = True
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    return litellm


class LitellmTransport:
    """A provider reached through litellm, which is told to try once only: the retries are the client's."""

    def __init__(self, config: LLMConfig, key: str | None, prepare: Callable[[], None] | None = None) -> None:
        """`prepare` runs once, before the first call, with litellm loaded."""
        self._config = config
        self._key = key
        self._prepare = prepare

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """litellm keeps its own connections."""
        yield

    async def send(self, request: ChatRequest) -> RawCompletion:
        """Send a request once. Raises CallError."""
        litellm = self._load()
        try:
            async with asyncio.timeout(self._config.timeout_s):  # litellm's own is per read, not per call
                response = await litellm.acompletion(**self._arguments(request))
        except TimeoutError as error:
            raise CallError(FailureKind.TIMEOUT, f"nothing within {self._config.timeout_s:g} s") from error
        except Exception as error:  # litellm's errors have no common base
            raise self._failure_of(error) from None  # the cause may quote the key
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

    def _failure_of(self, error: Exception) -> Exception:
        """What an exception of litellm means; without a status it is a bug and stays what it is."""
        status = getattr(error, "status_code", None)
        if not isinstance(status, int):
            return error
        if type(error).__name__ == "APIConnectionError":
            return CallError(FailureKind.CONNECTION, redact(str(error), self._key))
        headers = getattr(error, "litellm_response_headers", None) or {}
        return error_from_status(status, str(error), retry_after_s(headers), self._key)


def _parse_completion(response: Any) -> RawCompletion:
    if not response.choices:
        raise CallError(FailureKind.MALFORMED, "a response without choices")
    choice, usage = response.choices[0], getattr(response, "usage", None)
    return RawCompletion(
        text=drop_surrogates(choice.message.content or ""),
        finish_reason=choice.finish_reason or "stop",
        prompt_tokens=getattr(usage, "prompt_tokens", 0) or 0,
        completion_tokens=getattr(usage, "completion_tokens", 0) or 0,
        top_logprobs=_top_logprobs(choice),
    )


def _top_logprobs(choice: Any) -> tuple[tuple[TokenLogprob, ...], ...]:
    places = getattr(getattr(choice, "logprobs", None), "content", None) or ()
    return tuple(
        tuple(TokenLogprob(token=drop_surrogates(top.token), logprob=top.logprob) for top in place.top_logprobs)
        for place in places
    )
