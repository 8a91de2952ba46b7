"""The client of a chat model: cache, rate limit, budget, retries and batches around one transport."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property, partial
from typing import Any

from tapir_exp.config import LLMConfig, Reasoning
from tapir_exp.core.errors import ConfigError
from tapir_exp.llm.adaptive_slots import AdaptingTransport, open_slots
from tapir_exp.llm.batch_api import BatchEndpoint
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Completion, Usage
from tapir_exp.llm.completions import check_cached, check_usable, compute_usage, estimate_prompt, present
from tapir_exp.llm.endpoint_checks import endpoint_problems, read_api_key
from tapir_exp.llm.failures import CallError, FailureKind, Policy
from tapir_exp.llm.finish_reasons import LENGTH
from tapir_exp.llm.ledger import Spend
from tapir_exp.llm.litellm_transport import LitellmTransport
from tapir_exp.llm.openai_transport import HttpTransport, is_openai_compatible
from tapir_exp.llm.parameters import EndpointParameters
from tapir_exp.llm.pricing import get_price
from tapir_exp.llm.reactions import Reactions
from tapir_exp.llm.response_cache import NewEntry, encode_identity, request_key
from tapir_exp.llm.serving.pool import ServedTransport
from tapir_exp.llm.serving.server import ManagedServer
from tapir_exp.llm.slots import give_back_slot, take_slot
from tapir_exp.llm.transport import RawCompletion, Transport, hide_key

FIRST_WAIT_S = 1.0
"""Pause before the first retry; it doubles with every further one."""
MAX_WAIT_S = 300.0
"""Longest pause. If a provider asks for more (a daily quota), the run stops, to be resumed later."""
MAX_TOTAL_WAIT_S = 3600.0
"""Longest time that one call waits for rate limits and for a server that loads its model."""
PATIENT = frozenset({FailureKind.RATE_LIMIT, FailureKind.LOADING})
"""Failures that end by themselves: the calls of the account pause, and none of their attempts is counted."""
LONGEST_GUESS_S = 60.0
"""Longest pause if the provider gives no time: limits are per minute."""
MAX_PAUSES = 1000
"""Most pauses of one call; if a provider asks for more short waits, the call counts as refused."""
POLL_S = 0.05
"""Interval of checks for a request that another process has in flight."""


class Client:
    """A chat model behind its provider.

    Outside `connected` it holds nothing that belongs to an event loop, so one client serves a whole run.
    """

    def __init__(
        self,
        config: LLMConfig,
        role: str,
        call_store: CallStore,
        *,
        prepare: Callable[[], None] | None = None,
        transport: Transport | None = None,
        version: str | None = None,
        server: ManagedServer | None = None,
    ) -> None:
        """Set up the client; nothing is opened before the first call.

        Args:
            config: The model and its endpoint.
            role: Name in the ledger and in messages: teacher, judge, classifier.
            call_store: Cache, ledger, locks and rate limits.
            prepare: Runs once, before litellm's first call.
            transport: Sends the requests, if neither litellm nor an endpoint does; it must suit any event loop.
            version: Version of anything else that changes completions, such as the lab; part of the identity.
            server: The server of the model, if this run starts it.
        """
        self._config = config
        self._role = role
        self._call_store = call_store
        self._prepare = prepare
        self._own_transport = transport
        self._version = version
        self._server = server
        self._identity_text = encode_identity(self._call_identity())
        self._price = get_price(config)
        self._batch_price = get_price(config, batched=True)
        self._limiter = call_store.limiter(config)
        self._in_flight: dict[str, asyncio.Future[Completion]] = {}
        self._is_checked = False
        self._expects_cached = True
        self._reactions = Reactions(config, role, is_served=server is not None)
        self.slots = open_slots(config, self._reactions.tell_limit)

    def identity(self) -> dict[str, Any]:
        """Return what changes completions: the model, its endpoint, its extra parameters and its version, if any.

        What becomes of thoughts is part of it unless they are removed; cached completions hold them in any case.
        """
        config, thoughts = self._config, {}
        if config.reasoning is not Reasoning.strip:
            thoughts["reasoning"] = config.reasoning.value
        return {**self._call_identity(), **thoughts}

    def _call_identity(self) -> dict[str, Any]:
        config = self._config
        version = {} if self._version is None else {"version": self._version}
        # These keys are hashed into every cache key, so they keep their names.
        return {"model": config.model, "api_base": config.api_base, "options": config.extra_params, **version}

    def check(self, *, priced: bool = False) -> None:
        """Check that calls can succeed.

        Args:
            priced: Whether there is a budget in USD, which requires a known price.

        Raises:
            ConfigError: With every mistake found.
        """
        problems = list(endpoint_problems(self._config, self._api_key(), is_served=self._server is not None))
        if priced and self._price is None:
            problems.append(
                f"spend.max_usd needs a price, but that of {self._config.model} is unknown; set "
                f"{self._role}.llm.usd_per_million_input and {self._role}.llm.usd_per_million_output"
            )
        if problems:
            raise ConfigError([f"{self._role}: {problem}" for problem in problems])
        self._is_checked = True

    @asynccontextmanager
    async def connected(self, requests: Sequence[ChatRequest] = ()) -> AsyncIterator[None]:
        """Open the connections for one event loop.

        With `batch: true`, `requests` are first completed in batches; requests that a batch could not complete are
        sent singly later.
        """
        async with self._transport.connected():
            if self._config.batch:
                await self._fetch_batches(requests)
            yield

    async def complete(self, request: ChatRequest) -> Completion:
        """Complete a request, from the cache if possible; identical requests in flight share one call.

        Raises:
            CallError: If the request fails after all attempts.
            EndpointError: If the endpoint refuses every request.
            BudgetSpent: If the budget allows no further call.
        """
        return present(await self._complete(self._key_of(request), request), self._config.reasoning)

    async def _complete(self, key: str, request: ChatRequest) -> Completion:
        """Return the completion of a request with its thoughts, as it is stored."""
        # After a request that was not cached, the lookup under the lock, which is needed in any case, is enough.
        if self._expects_cached:
            cached = self._usable(self._call_store.cache.get(key), request)
            if cached is not None:
                self._call_store.ledger.record_cached(self._role)
                return cached
        while (shared := self._in_flight.get(key)) is not None:
            give_back_slot()  # the call that is shared may need it
            try:
                completion = await asyncio.shield(shared)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not shared.cancelled() or (task is not None and task.cancelling()):
                    raise
                continue  # the other waiter was cancelled, and its call with it
            self._call_store.ledger.record_cached(self._role)
            return completion
        return await self._lead(key, request)

    async def _lead(self, key: str, request: ChatRequest) -> Completion:
        """Complete a request, and pass the completion or the error to all who wait for it in `_in_flight`."""
        # In the task of the first: one more task takes as long as all other work on a call.
        self._in_flight[key] = shared = asyncio.get_running_loop().create_future()
        try:
            completion = await self._complete_exclusively(key, request)
        except asyncio.CancelledError:
            shared.cancel()
            raise
        except BaseException as error:
            shared.set_exception(error)
            shared.exception()  # otherwise asyncio warns that it was never retrieved
            raise
        else:
            shared.set_result(completion)
            return completion
        finally:
            del self._in_flight[key]

    @contextmanager
    def reopened(self, stage: str) -> Iterator[tuple["Client", Mapping[str, Spend]]]:
        """Open the same model again for the current thread; see `StreamableModel`."""
        with self._call_store.reopened() as call_store, call_store.ledger.record_stage(stage) as spend:
            second = Client(
                self._config,
                self._role,
                call_store,
                prepare=self._prepare,
                transport=self._own_transport,
                version=self._version,
                server=self._server,
            )
            yield second, spend

    def count_cached(self, requests: Sequence[ChatRequest]) -> int:
        """Return the number of requests with a cached completion."""
        return len(self._find_cached([self._key_of(request) for request in requests], requests))

    def _find_cached(self, keys: Sequence[str], requests: Sequence[ChatRequest]) -> dict[str, Completion]:
        """Return the usable cached completions by key."""
        found, by_key = self._call_store.cache.get_many(keys), dict(zip(keys, requests, strict=True))
        return {key: hit for key, hit in found.items() if self._usable(hit, by_key[key]) is not None}

    def _usable(self, cached: Completion | None, request: ChatRequest) -> Completion | None:
        """Return a cached completion if it can be used for the request."""
        return cached if cached is not None and self._is_usable(request, cached) else None

    def _is_usable(self, request: ChatRequest, cached: Completion) -> bool:
        extra = self._config.reasoning_tokens
        room = request.max_tokens + extra if extra else 0
        return check_cached(cached, self._config.reasoning, room)

    def record_failed(self, request: ChatRequest, error: CallError) -> None:
        """Record a request that failed for good, with the reason and the last reply."""
        self._call_store.ledger.record_failed(self._role, self._key_of(request), error)

    @cached_property
    def _transport(self) -> Transport:
        return self._open_transport() if self.slots is None else AdaptingTransport(self._open_transport(), self.slots)

    def _open_transport(self) -> Transport:
        if self._own_transport is not None:
            return self._own_transport
        if self._server is not None:
            return ServedTransport(self._config, self._api_key(), self._server)
        if not self._config.use_litellm and is_openai_compatible(self._config.model):
            return HttpTransport(self._config, self._api_key())
        return LitellmTransport(self._config, self._api_key(), self._prepare)

    def _api_key(self) -> str | None:
        return read_api_key(self._config)

    def _key_of(self, request: ChatRequest) -> str:
        return request_key(self._identity_text, request)

    async def _complete_exclusively(self, key: str, request: ChatRequest) -> Completion:
        """Complete a request that no other process has in flight; otherwise wait for the other's completion."""
        while True:
            # Cached under the lock, because another process that held it may have written the completion just before.
            is_locked, cached = await self._call_store.reserve(key)
            if is_locked:
                break
            await asyncio.sleep(POLL_S)
        try:
            cached = self._usable(cached, request)
            self._expects_cached = cached is not None
            if cached is not None:
                self._call_store.ledger.record_cached(self._role)
                return cached
            return await self._call_with_retries(key, request)
        finally:
            self._call_store.locks.release_soon(key)

    async def _call_with_retries(self, key: str, request: ChatRequest) -> Completion:
        # Once: the proxies of the environment take longer to read than all else that a call needs.
        if not self._is_checked:
            self.check()
        attempt, pauses, waited_s = 1, 0, 0.0
        while True:
            dialect = self._parameters.dialect if self._parameters else None
            try:
                completion = await self._call(key, request)
            except CallError as error:
                if self._reactions.adapt(error, self._parameters, dialect, request):
                    continue
                self._call_store.ledger.record_failure(self._role, error.kind)
                self._reactions.stop_if_lasting(error)
                if error.kind.policy is not Policy.RETRY:
                    raise
                # A limit per minute is no fault of the row: it waits, together with all other calls.
                if error.kind in PATIENT:
                    pauses += 1
                    error.wait_s = error.wait_s or min(FIRST_WAIT_S * 2 ** (pauses - 1), LONGEST_GUESS_S)
                    waited_s += error.wait_s
                    if error.wait_s > MAX_WAIT_S or waited_s > MAX_TOTAL_WAIT_S or pauses > MAX_PAUSES:
                        raise self._reactions.refusal(FailureKind.QUOTA, _final_error(error, pauses)) from None
                elif attempt >= self._config.max_attempts or error.wait_s > MAX_WAIT_S:
                    raise _final_error(error, attempt) from None
                await self._pause(error, attempt)
                attempt += error.kind not in PATIENT
            else:
                self._reactions.note_answer()
                return completion

    @property
    def _parameters(self) -> EndpointParameters | None:
        """Return the endpoint's names of parameters; None for models without an endpoint."""
        return getattr(self._transport, "parameters", None)

    async def _call(self, key: str, request: ChatRequest) -> Completion:
        """Send the request once, when the rate limit and the budget allow it."""
        prompt_tokens = estimate_prompt(request) if self._limiter.is_limited else 0
        tokens = request.max_tokens + self._config.reasoning_tokens + prompt_tokens
        await take_slot()
        started = await self._wait_for_turn(tokens)
        try:
            response = hide_key(await self._transport.send(request), self._api_key())
        except asyncio.CancelledError:  # Ctrl-C, or an error of another call
            self._call_store.ledger.record_failure(self._role, FailureKind.LOST)
            raise
        except CallError as error:
            # It was answered with status 200, so it may have been paid. Nothing is known about its tokens.
            if error.kind is FailureKind.MALFORMED:
                lost = RawCompletion(error.detail, LENGTH, 0, 0)
                self._call_store.ledger.record_paid(self._role, compute_usage(request, lost, self._price))
                await self._call_store.write_counts()
            raise
        # With a budget, the price has to be on disk before the next call looks for it.
        if not self._call_store.has_budget:
            give_back_slot()
        usage = compute_usage(request, response, self._price)
        self._limiter.correct(usage.prompt_tokens + usage.completion_tokens - tokens, started)
        return await self._record(key, request, response, usage)

    async def _wait_for_turn(self, tokens: int) -> float:
        """Wait until the rate limit lets a call start, and return the time.

        Raises:
            BudgetSpent: If the budget is spent, before or during the wait.
        """
        self._call_store.ledger.check()
        while wait_s := self._limiter.acquire(tokens, now := self._limiter.now()):
            self._reactions.tell_wait(wait_s, self._limiter)
            # Jitter: waiting calls of all processes would otherwise wake up at the same moment.
            await asyncio.sleep(wait_s + random.uniform(0, min(wait_s, FIRST_WAIT_S) / 2))
            self._call_store.ledger.check()
        return now

    async def _pause(self, error: CallError, attempt: int) -> None:
        """Pause all calls of the account if the provider asks for it; else sleep with exponential backoff."""
        if error.wait_s:
            # No sleep here: the limiter holds back the retry of this call, too.
            self._reactions.pause_reason = str(error)
            self._limiter.pause(error.wait_s)
            return
        longest = min(FIRST_WAIT_S * 2 ** (attempt - 1), MAX_WAIT_S)
        await asyncio.sleep(random.uniform(longest / 2, longest))

    async def _record(self, key: str, request: ChatRequest, response: RawCompletion, usage: Usage) -> Completion:
        """Write a response and its price, and return its completion.

        The price is recorded even if the response is not usable, because it was paid.

        Raises:
            CallError: If the response is not usable.
        """
        self._call_store.ledger.record_paid(self._role, usage)
        if (error := check_usable(response.text, response.finish_reason, self._config.reasoning)) is not None:
            await self._call_store.write_counts()
            raise error
        completion = Completion(
            text=response.text,
            finish_reason=response.finish_reason,
            usage=usage,
            top_logprobs=response.top_logprobs,
            reasoning=response.reasoning,
        )
        # Completion and price are on disk before the caller can use the completion. A stored one that another process
        # has written since then is valid; one that cannot be used is replaced.
        is_usable = partial(self._is_usable, request)
        return await self._call_store.write(NewEntry(key, self._config.model, request, completion, is_usable))

    async def _fetch_batches(self, requests: Sequence[ChatRequest]) -> None:
        """Complete in batches what is neither cached nor in flight in another process."""
        by_key = {self._key_of(request): request for request in requests}
        cached = self._find_cached(list(by_key), list(by_key.values()))
        # The locks keep other processes from sending the same requests while the batch is in progress.
        locked = {key: by_key[key] for key in by_key if key not in cached and self._call_store.locks.acquire(key)}
        if locked:
            self.check()
        endpoint = BatchEndpoint(self._config, self._api_key(), self._role, self._call_store.batches)
        try:
            async for key, fetched in endpoint.fetch(locked, self._call_store.ledger.check):
                response = hide_key(fetched, self._api_key())
                try:
                    usage = compute_usage(by_key[key], response, self._batch_price)
                    await self._record(key, by_key[key], response, usage)
                except CallError as error:  # the request is sent singly later
                    self._call_store.ledger.record_failure(self._role, error.kind)
        finally:
            # Requests without a usable result are sent singly later, by this or another process.
            for key in locked:
                self._call_store.locks.release(key)


def _final_error(error: CallError, attempts: int) -> CallError:
    """Return the error of the last attempt, with the reason why there is no further one."""
    reason = f"it asks to wait {error.wait_s:.0f} s" if error.wait_s > MAX_WAIT_S else f"attempts: {attempts}"
    return CallError(error.kind, f"{error.detail} ({reason})", raw=error.raw)
