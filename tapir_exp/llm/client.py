"""A chat model as the stages have it: cached, limited, billed, tried again; one place for all of it."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any

from tapir_exp.config import LLMConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.llm.batch_api import BatchEndpoint
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Completion, Usage
from tapir_exp.llm.failures import CallError, EndpointError, FailureKind, Policy
from tapir_exp.llm.litellm_transport import LitellmTransport
from tapir_exp.llm.openai_transport import HttpTransport, is_openai_compatible
from tapir_exp.llm.pricing import Price, get_price
from tapir_exp.llm.response_cache import cache_key
from tapir_exp.llm.serving.pool import ServedTransport
from tapir_exp.llm.serving.server import ManagedServer
from tapir_exp.llm.transport import RawCompletion, Transport

FIRST_WAIT_S = 1.0
"""Pause before the second try; it doubles with every further one."""
MAX_WAIT_S = 300.0
"""The longest pause; a provider that asks for more (a daily quota) ends the call."""
POLL_S = 0.05
"""How often a process looks whether another has the reply that both want."""
CHARS_PER_TOKEN = 4
"""What a prompt is taken for when it is let through the token limit; the provider's own count corrects it."""
RESERVED_PARAMS = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "timeout", "api_base", "api_key"}
    | {"stream", "n", "logprobs", "top_logprobs", "num_retries", "max_retries"}
)
"""Arguments of the call that `options` may not set."""


class Client:
    """A chat model behind its provider.

    Holds nothing that belongs to an event loop outside `connected`, so one object serves every `ask_all` of a run.
    """

    def __init__(
        self,
        config: LLMConfig,
        role: str,
        call_store: CallStore,
        *,
        prepare: Callable[[], None] | None = None,
        version: str | None = None,
        server: ManagedServer | None = None,
    ) -> None:
        """`role` names the spender in the ledger; `prepare` runs once, before litellm's first call.

        `version` becomes part of the identity: it tells apart what else changes replies, such as the lab's code.
        server: where the run serves the model itself.
        """
        self._config = config
        self._role = role
        self._call_store = call_store
        self._prepare = prepare
        self._version = version
        self._server = server
        self._price = get_price(config)
        self._price_in_batch = get_price(config, batched=True)
        self._limiter = call_store.limiter(config)
        self._flying: dict[str, asyncio.Task[Completion]] = {}

    def identity(self) -> dict[str, Any]:
        """The model, its endpoint, its options and its version, if it has one: what changes replies."""
        config = self._config
        version = {} if self._version is None else {"version": self._version}
        return {"model": config.model, "api_base": config.api_base, "options": config.extra_params, **version}

    def check(self, *, priced: bool = False) -> None:
        """Raises ConfigError where no call can succeed: no key, no batches, an option that is ours, no price.

        priced: whether a budget in USD has to be kept, for which the price must be known.
        """
        problems = []
        name = self._config.api_key_env
        if name is not None and not os.environ.get(name):
            problems.append(f"{self._role}: the environment variable {name}, which api_key_env names, is not set")
        if self._config.batch and not is_openai_compatible(self._config.model):
            problems.append(f"{self._role}: batch is for endpoints of the OpenAI protocol, unlike {self._config.model}")
        problems.extend(
            f"{self._role}: options.{option} is set by the stages, not by the options of an endpoint"
            for option in sorted(RESERVED_PARAMS & set(self._config.extra_params))
        )
        if self._server is not None and self._config.api_base is not None:
            problems.append(f"{self._role}: api_base must be null where the run starts the server (server.command)")
        if self._server is not None and not is_openai_compatible(self._config.model):
            problems.append(
                f"{self._role}: a server of one's own speaks the OpenAI protocol: openai/<name of the model>"
            )
        if priced and self._price is None:
            problems.append(
                f"{self._role}: spend.max_usd cannot be kept, for the price of {self._config.model} is not known; set "
                f"{self._role}.llm.usd_per_million_input and usd_per_million_output (classifier for the classifier)"
            )
        if problems:
            raise ConfigError(problems)

    @asynccontextmanager
    async def connected(self, requests: Sequence[ChatRequest] = ()) -> AsyncIterator[None]:
        """Connections for as long as an event loop asks; where the model is asked in batches, all replies are
        fetched first, and what a batch did not bring is asked singly."""
        async with self._transport.connected():
            if self._config.batch:
                await self._fetch_batches(requests)
            yield

    async def complete(self, request: ChatRequest) -> Completion:
        """The reply, from the cache where it is there; identical requests in flight are one call.

        Raises CallError after the last try, EndpointError where none can succeed, BudgetSpent where none may be made.
        """
        key = self._key_of(request)
        known = self._call_store.cache.get(key)
        if known is not None:
            self._call_store.ledger.record_cached(self._role)
            return known
        if key in self._flying:
            shared = await asyncio.shield(self._flying[key])
            self._call_store.ledger.record_cached(self._role)
            return shared
        return await asyncio.shield(self._take_off(key, request))

    def count_cached(self, requests: Sequence[ChatRequest]) -> int:
        """How many of these requests have their reply in the cache."""
        return len(self._call_store.cache.get_many([self._key_of(request) for request in requests]))

    def record_failed(self, request: ChatRequest, error: CallError) -> None:
        """Keep the request's key with the reason and what was said last."""
        self._call_store.ledger.record_failed(self._role, self._key_of(request), error)

    @cached_property
    def _transport(self) -> Transport:
        if self._server is not None:
            return ServedTransport(self._config, self._api_key(), self._server)
        if not self._config.use_litellm and is_openai_compatible(self._config.model):
            return HttpTransport(self._config, self._api_key())
        return LitellmTransport(self._config, self._api_key(), self._prepare)

    def _api_key(self) -> str | None:
        """The key; an endpoint of one's own without one gets a blank, lest litellm send it the provider's.

        None also where the variable is not set, which `check` tells before the first call: what is cached needs no key.
        """
        if self._config.api_key_env is not None:
            return os.environ.get(self._config.api_key_env)
        return "none" if self._config.api_base is not None else None

    def _key_of(self, request: ChatRequest) -> str:
        return cache_key(self.identity(), request)

    def _take_off(self, key: str, request: ChatRequest) -> asyncio.Task[Completion]:
        """The call as a task of its own, so that whoever shares it does not share the first asker's cancellation."""
        call = asyncio.get_running_loop().create_task(self._fetch_alone(key, request))
        self._flying[key] = call
        call.add_done_callback(lambda _: self._flying.pop(key, None))
        return call

    async def _fetch_alone(self, key: str, request: ChatRequest) -> Completion:
        """The reply, asked by this process alone: where another is asking the same, its reply is waited for."""
        while not self._call_store.locks.acquire(key):
            await asyncio.sleep(POLL_S)
        try:
            known = self._call_store.cache.get(key)
            if known is not None:
                self._call_store.ledger.record_cached(self._role)
                return known
            return await self._fetch(key, request)
        finally:
            self._call_store.locks.release(key)

    async def _fetch(self, key: str, request: ChatRequest) -> Completion:
        self.check()
        for attempt in range(1, self._config.max_attempts + 1):
            try:
                return await self._try(key, request)
            except CallError as error:
                self._call_store.ledger.record_failure(self._role, error.kind)
                if error.kind.policy is Policy.ABORT_RUN:
                    raise EndpointError(f"{self._role}: {self._config.model} refuses every call: {error}") from None
                if error.kind.policy is not Policy.RETRY:
                    raise
                if attempt == self._config.max_attempts or error.wait_s > MAX_WAIT_S:
                    raise _final_error(error, attempt) from None
                await self._pause(error, attempt)
        raise ConfigError([f"{self._role}: attempts is {self._config.max_attempts}, but must be at least 1"])

    async def _try(self, key: str, request: ChatRequest) -> Completion:
        tokens = request.max_tokens + sum(len(turn.content) for turn in request.messages) // CHARS_PER_TOKEN
        admitted = await self._admission(tokens)
        response = await self._transport.send(request)
        self._limiter.correct(response.prompt_tokens + response.completion_tokens - tokens, admitted)
        return await self._settle(key, request, response, self._price)

    async def _admission(self, tokens: int) -> float:
        """Wait until a call may start, and say when it was let in. Raises BudgetSpent where it never may."""
        self._call_store.ledger.check()
        while wait_s := self._limiter.acquire(tokens, now := time.time()):
            await asyncio.sleep(wait_s + random.uniform(0, min(wait_s, FIRST_WAIT_S) / 2))
            self._call_store.ledger.check()
        return now

    async def _pause(self, error: CallError, attempt: int) -> None:
        """Stop all calls as long as the provider asks, else wait, longer with every try; jitter keeps calls apart."""
        if error.wait_s:
            self._limiter.pause(error.wait_s)
            return
        longest = min(FIRST_WAIT_S * 2 ** (attempt - 1), MAX_WAIT_S)
        await asyncio.sleep(random.uniform(longest / 2, longest))

    async def _settle(self, key: str, request: ChatRequest, response: RawCompletion, price: Price | None) -> Completion:
        """Write down a response, which is paid for whether or not it can be used, and give it as a reply.

        Raises CallError where it cannot be used.
        """
        usage = _compute_usage(response, price)
        self._call_store.ledger.record_paid(self._role, usage)
        if (error := _check_usable(response)) is not None:
            await self._call_store.write(lambda: None)
            raise error
        reply = Completion(
            text=response.text,
            finish_reason=response.finish_reason,
            usage=usage,
            top_logprobs=response.top_logprobs,
        )
        kept: list[Completion] = []
        put = self._call_store.cache.put
        await self._call_store.write(lambda: kept.append(put(key, self._config.model, request, reply)))
        return kept[0]

    async def _fetch_batches(self, requests: Sequence[ChatRequest]) -> None:
        """Bring the replies that are neither there nor asked for by another process, in batches."""
        asked = {self._key_of(request): request for request in requests}
        known = self._call_store.cache.get_many(list(asked))
        claimed = {key: asked[key] for key in asked if key not in known and self._call_store.locks.acquire(key)}
        if claimed:
            self.check()
        endpoint = BatchEndpoint(self._config, self._api_key(), self._role, self._call_store.batches)
        try:
            async for key, response in endpoint.fetch(claimed, self._call_store.ledger.check):
                await self._settle_from_batch(key, asked[key], response)
        finally:
            for key in claimed:
                self._call_store.locks.release(key)

    async def _settle_from_batch(self, key: str, request: ChatRequest, response: RawCompletion) -> None:
        try:
            await self._settle(key, request, response, self._price_in_batch)
        except CallError as error:  # it is asked again, singly
            self._call_store.ledger.record_failure(self._role, error.kind)


def _compute_usage(response: RawCompletion, price: Price | None) -> Usage:
    """What the provider counted; where it counted nothing, nothing is known of the price either."""
    counted = response.prompt_tokens + response.completion_tokens > 0
    free = price is not None and price.of(1, 1) == 0.0
    usd = price.of(response.prompt_tokens, response.completion_tokens) if price else None
    return Usage(
        prompt_tokens=response.prompt_tokens,
        completion_tokens=response.completion_tokens,
        usd=usd if counted or free else None,
    )


def _check_usable(response: RawCompletion) -> CallError | None:
    """Why a response is no reply. One cut before its first word is a reply, which whoever reads it will refuse."""
    if response.finish_reason == "content_filter":
        return CallError(FailureKind.FILTERED, "the provider's content filter stopped the reply", raw=response.text)
    if not response.text.strip() and response.finish_reason != "length":
        return CallError(FailureKind.EMPTY, f"finish reason {response.finish_reason}", raw=response.text)
    return None


def _final_error(error: CallError, attempts: int) -> CallError:
    """The error in which the last try ends."""
    wait = f"it asks to wait {error.wait_s:.0f} s" if error.wait_s > MAX_WAIT_S else f"tries: {attempts}"
    return CallError(error.kind, f"{error.detail} ({wait})", raw=error.raw)
