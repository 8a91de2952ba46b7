"""Chat models behind litellm: one place for the cache, the retries, the classification of failures and the bill."""

import asyncio
import importlib
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus
from typing import Any

from tapir_exp.config import LLMConfig
from tapir_exp.errors import ConfigError
from tapir_exp.llm.cache import ReplyCache, cache_key
from tapir_exp.llm.chat import CallError, ChatRequest, FailureKind, Reply, TokenLogprob, Usage
from tapir_exp.llm.ledger import Ledger

LAB = "lab/"
"""How the models of the embedded lab begin: they are free, and told which draw of a prompt is wanted."""
FIRST_WAIT_S = 2.0
"""Pause before the second try; it doubles with every further one."""
LONGEST_WAIT_S = 300.0
"""The longest pause; a provider that asks for more (a daily quota) ends the call."""
OWN_ARGUMENTS = frozenset(
    {"model", "messages", "max_tokens", "temperature", "timeout", "api_base", "api_key", "stream", "n"}
    | {"num_retries", "max_retries"}
)
"""Arguments of the call that `options` may not set."""


class LitellmChat:
    """A chat model of any provider that litellm knows.

    Holds nothing that belongs to an event loop once a call has ended, so one object serves every `ask_all` of a run.
    """

    def __init__(
        self,
        config: LLMConfig,
        role: str,
        replies: ReplyCache,
        ledger: Ledger,
        *,
        prepare: Callable[[], None] | None = None,
        version: str | None = None,
    ) -> None:
        """`role` names the spender in the ledger; `prepare` runs once, before the first call, with litellm loaded.

        `version` becomes part of the identity: it tells apart what else changes replies, such as the lab's code.
        """
        self._config = config
        self._role = role
        self._replies = replies
        self._ledger = ledger
        self._prepare = prepare
        self._version = version
        self._flying: dict[str, asyncio.Task[Reply]] = {}
        self._open_at = 0.0

    def identity(self) -> dict[str, Any]:
        """The model, its endpoint, its options and its version, if it has one: what changes replies."""
        config = self._config
        version = {} if self._version is None else {"version": self._version}
        return {"model": config.model, "api_base": config.api_base, "options": config.options, **version}

    def check(self) -> None:
        """Raises ConfigError where no call can succeed: the key is not in the environment, or an option is ours."""
        problems = []
        name = self._config.api_key_env
        if name is not None and not os.environ.get(name):
            problems.append(f"{self._role}: the environment variable {name}, which api_key_env names, is not set")
        problems.extend(
            f"{self._role}: options.{option} is set by the stages, not by the options of an endpoint"
            for option in sorted(OWN_ARGUMENTS & set(self._config.options))
        )
        if problems:
            raise ConfigError(problems)

    async def reply(self, request: ChatRequest) -> Reply:
        """The reply, from the cache where it is there; identical requests in flight are one call.

        Raises CallError after the last try, and ConfigError (see `check`) before the first.
        """
        key = cache_key(self.identity(), request)
        known = self._replies.get(key)
        if known is not None:
            self._ledger.record_cached(self._role)
            return known
        if key in self._flying:
            shared = await asyncio.shield(self._flying[key])
            self._ledger.record_cached(self._role)
            return shared
        return await asyncio.shield(self._take_off(key, request))

    def _take_off(self, key: str, request: ChatRequest) -> asyncio.Task[Reply]:
        """The call as a task of its own, so that whoever shares it does not share the first asker's cancellation."""
        call = asyncio.get_running_loop().create_task(self._fetch(key, request))
        self._flying[key] = call
        call.add_done_callback(lambda _: self._flying.pop(key, None))
        return call

    async def _fetch(self, key: str, request: ChatRequest) -> Reply:
        self.check()
        litellm = self._load()
        for attempt in range(1, self._config.attempts + 1):
            try:
                return self._replies.put(key, await self._try(litellm, request))
            except _PassingError as failure:
                if attempt == self._config.attempts or failure.wait_s > LONGEST_WAIT_S:
                    raise failure.final(attempt) from failure.__cause__
                await self._pause(failure, attempt)
        raise ConfigError([f"{self._role}: attempts is {self._config.attempts}, but must be at least 1"])

    def _load(self) -> Any:
        litellm = load_litellm()
        if self._prepare is not None:
            self._prepare()
            self._prepare = None
        return litellm

    async def _pause(self, failure: "_PassingError", attempt: int) -> None:
        """Stop all calls as long as the provider asks, else wait, longer with every try; jitter keeps calls apart."""
        if failure.wait_s:
            self._open_at = max(self._open_at, time.monotonic() + failure.wait_s)
            return
        longest = min(FIRST_WAIT_S * 2 ** (attempt - 1), LONGEST_WAIT_S)
        await asyncio.sleep(random.uniform(longest / 2, longest))

    async def _try(self, litellm: Any, request: ChatRequest) -> Reply:
        while (closed_s := self._open_at - time.monotonic()) > 0:
            await asyncio.sleep(closed_s + random.uniform(0, FIRST_WAIT_S / 2))
        try:
            async with asyncio.timeout(self._config.timeout_s):  # litellm's own is per read, not per call
                response = await litellm.acompletion(**self._arguments(request))
        except TimeoutError as error:
            raise _PassingError(FailureKind.TIMEOUT, f"nothing within {self._config.timeout_s:g} s") from error
        except Exception as error:  # litellm's errors have no common base
            raise _failure_of(error) from error
        return self._read(response)

    def _arguments(self, request: ChatRequest) -> dict[str, Any]:
        config = self._config
        return {
            **config.options,
            **({"sample": request.sample} if config.model.startswith(LAB) else {}),
            "model": config.model,
            "messages": [message.model_dump() for message in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            **({"logprobs": True, "top_logprobs": request.top_logprobs} if request.top_logprobs else {}),
            "timeout": config.timeout_s,
            "api_base": config.api_base,
            "api_key": self._key(),
            "num_retries": 0,
            "max_retries": 0,
        }

    def _key(self) -> str | None:
        """The key; an endpoint of one's own without one gets a blank, lest litellm send it the provider's."""
        if self._config.api_key_env is not None:
            return os.environ[self._config.api_key_env]
        return "none" if self._config.api_base is not None else None

    def _read(self, response: Any) -> Reply:
        """The reply in litellm's response, which is paid for whether or not it can be used."""
        usage = self._usage_of(response)
        self._ledger.record_paid(self._role, usage)
        if not response.choices:
            raise _PassingError(FailureKind.PROVIDER, "a response without choices")
        choice = response.choices[0]
        text, reason = _storable(choice.message.content or ""), choice.finish_reason or "stop"
        if reason == "content_filter":
            raise CallError(FailureKind.REFUSED, "the provider's content filter stopped the reply")
        if text.strip():
            return Reply(text=text, finish_reason=reason, usage=usage, top_logprobs=_top_logprobs(choice))
        if reason == "length":
            raise CallError(FailureKind.EMPTY, "max_tokens were used up before the first word")
        raise _PassingError(FailureKind.EMPTY, f"finish reason {reason}")

    def _usage_of(self, response: Any) -> Usage:
        """What the provider counted; where it counted nothing, nothing is known of the price either."""
        counted = getattr(response, "usage", None)
        prompt, completion = (getattr(counted, f"{side}_tokens", 0) or 0 for side in ("prompt", "completion"))
        usd = self._usd(response, prompt, completion) if prompt + completion else None
        return Usage(prompt_tokens=prompt, completion_tokens=completion, usd=usd)

    def _usd(self, response: Any, prompt: int, completion: int) -> float | None:
        """The price by the configuration, else by litellm's list, where 0 stands for "not listed" too."""
        config = self._config
        if config.usd_per_million_input is not None and config.usd_per_million_output is not None:
            return (prompt * config.usd_per_million_input + completion * config.usd_per_million_output) / 1e6
        listed = response._hidden_params.get("response_cost")  # litellm has asked its list already
        if config.model.startswith(LAB):
            return 0.0
        return float(listed) if listed else None


class _PassingError(Exception):
    """A failure that another try may mend; `wait_s` is what the provider asks to wait, 0 where it does not."""

    def __init__(self, kind: FailureKind, detail: str, wait_s: float = 0.0) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.wait_s = kind, detail, wait_s

    def final(self, attempts: int) -> CallError:
        """The error in which the last try ends."""
        if self.wait_s > LONGEST_WAIT_S:
            return CallError(self.kind, f"{self.detail} (it asks to wait {self.wait_s:.0f} s)")
        return CallError(self.kind, f"{self.detail} (tries: {attempts})")


@cache
def load_litellm() -> Any:
    """Import litellm (seconds) so that it neither fetches its price list from the network nor talks to the terminal."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    litellm: Any = importlib.import_module("litellm")
    litellm.suppress_debug_info = True
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    return litellm


def _failure_of(error: Exception) -> Exception:
    """What an exception of litellm means: worth another try, refused for good, or (without a status) a bug."""
    status = getattr(error, "status_code", None)
    if not isinstance(status, int):
        return error
    detail = _one_line(error)
    if status == HTTPStatus.REQUEST_TIMEOUT:
        return _PassingError(FailureKind.TIMEOUT, detail)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return _PassingError(FailureKind.RATE_LIMIT, detail, _asked_wait_s(error))
    if status == HTTPStatus.CONFLICT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _PassingError(FailureKind.PROVIDER, detail, _asked_wait_s(error))
    return CallError(FailureKind.REFUSED, detail)


def _top_logprobs(choice: Any) -> tuple[tuple[TokenLogprob, ...], ...]:
    """The likeliest tokens at each place, where the provider reports them."""
    places = getattr(getattr(choice, "logprobs", None), "content", None) or ()
    return tuple(
        tuple(TokenLogprob(token=_storable(top.token), logprob=top.logprob) for top in place.top_logprobs)
        for place in places
    )


def _storable(text: str) -> str:
    """Text without the lone surrogates that JSON can smuggle in and no file can hold."""
    return text.encode(errors="replace").decode()


def _one_line(error: Exception) -> str:
    """Enough of a message to tell the cause; providers send whole HTML pages."""
    return " ".join(str(error).split())[:200]


def _asked_wait_s(error: Exception) -> float:
    """Seconds that the Retry-After header asks to wait: a number or an HTTP date; 0 where it is missing."""
    headers: Mapping[str, str] = getattr(error, "litellm_response_headers", None) or {}
    asked = headers.get("retry-after", "")
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    except ValueError:
        return 0.0
