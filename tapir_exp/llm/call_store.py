"""Everything that the chat models of one job share: cached completions and spend on disk, locks and rate limits."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.llm import batch_api, inflight, ledger, rate_limit, response_cache
from tapir_exp.llm.chat import Completion
from tapir_exp.llm.group_writer import Entry, GroupWriter
from tapir_exp.llm.inflight import InFlightLocks
from tapir_exp.llm.ledger import Ledger, SpendScope
from tapir_exp.llm.rate_limit import RateLimiter
from tapir_exp.llm.response_cache import NewEntry, ResponseCache
from tapir_exp.llm.sqlite import Database

ValueT = TypeVar("ValueT")

CALLS_FILE = "calls.sqlite"
"""Completions, spend and batches. Writes wait for the disk, so that no call is paid twice."""
TRAFFIC_FILE = "traffic.sqlite"
"""In-flight locks and rate limits. They hold for a minute, so writes do not wait for the disk."""


CALLS_SCHEMA = response_cache.SCHEMA + ledger.SCHEMA + batch_api.SCHEMA
TRAFFIC_SCHEMA = inflight.SCHEMA + rate_limit.SCHEMA


class CallStore:
    """The two databases of a store; a completion and its price are written in one transaction.

    Attributes:
        cache: Completions by request.
        ledger: Calls and spend of this job.
        batches: Batches that are in progress at the providers.
        locks: Requests that are in flight in any process.
        has_budget: Whether calls, tokens or USD are limited.
    """

    def __init__(self, root: Path, scope: SpendScope, budget: SpendConfig) -> None:
        """Open the databases, or create them.

        Args:
            root: Directory of the store.
            scope: The job that the spend is recorded for.
            budget: Limits on the spend of the scope.

        Raises:
            StoreError: If one of the files is not a SQLite database.
        """
        self._durable = Database(calls_file(root), CALLS_SCHEMA, durable=True)
        self._traffic = Database(root / TRAFFIC_FILE, TRAFFIC_SCHEMA, durable=False)
        self.cache = ResponseCache(self._durable)
        self.ledger = Ledger(self._durable, scope, budget)
        self.batches = batch_api.BatchRecords(self._durable)
        self.locks = InFlightLocks(self._traffic, (scope.scope, scope.job), self._record_lost)
        self.has_budget = any(limit is not None for limit in (budget.max_calls, budget.max_tokens, budget.max_usd))
        self._reserving: list[tuple[str, asyncio.Future[tuple[bool, Completion | None]]]] = []
        self._arguments = (root, scope, budget)
        self._writer = GroupWriter(self._commit, self._durable.sync)

    def limiter(self, config: LLMConfig) -> RateLimiter:
        """Return the rate limiter of a model's account: its endpoint, model and API key variable."""
        account = f"{config.api_base} {config.model} {config.api_key_env}"
        return RateLimiter(self._traffic, account, config.requests_per_minute, config.tokens_per_minute)

    async def write(self, change: Callable[[ResponseCache], ValueT]) -> ValueT:
        """Run `change` with the next group; return its value once it and the counts so far are on disk.

        Changes of the same moment share one transaction, because one wait for the disk costs as much as ten calls.

        Args:
            change: Gets the cache, within the transaction of the group.
        """
        return await self._writer.submit(change)

    async def write_counts(self) -> None:
        """Write the counts of the ledger only."""
        await self.write(lambda _: None)

    async def reserve(self, key: str) -> tuple[bool, Completion | None]:
        """Lock a key, and look its completion up under the lock.

        Requests of the same pass of the event loop share their statements, which take longer than all else of a call.

        Returns:
            Whether the key is locked now, and its completion, if it is cached.
        """
        loop = asyncio.get_running_loop()
        reserved: asyncio.Future[tuple[bool, Completion | None]] = loop.create_future()
        self._reserving.append((key, reserved))
        if len(self._reserving) == 1:
            loop.call_soon(self._reserve_all)
        try:
            return await reserved
        except asyncio.CancelledError:
            if reserved.done() and not reserved.cancelled() and reserved.exception() is None and reserved.result()[0]:
                self.locks.release(key)
            raise

    def _reserve_all(self) -> None:
        reserving = [(key, reserved) for key, reserved in self._reserving if not reserved.cancelled()]
        self._reserving.clear()
        try:
            locked = self.locks.acquire_many(key for key, _ in reserving)
            cached = self.cache.get_many(list(locked))
        except Exception as error:
            for _, reserved in reserving:
                reserved.set_exception(error)
            return
        for key, reserved in reserving:
            if key in locked:
                locked.discard(key)
                reserved.set_result((True, cached.get(key)))
            # The process that holds the key may have ended.
            elif self.locks.acquire(key):
                reserved.set_result((True, self.cache.get(key)))
            else:
                reserved.set_result((False, None))

    @contextmanager
    def reopened(self) -> Iterator["CallStore"]:
        """Open the same databases again, with connections that belong to the current thread."""
        second = CallStore(*self._arguments)
        try:
            yield second
        finally:
            second.close()

    def close(self) -> None:
        """Write what is left, release all locks and close the databases."""
        self._writer.close()
        self.ledger.flush()
        self.locks.close()
        self._durable.close()
        self._traffic.close()

    def _commit(self, entries: Sequence[Entry]) -> list[Any]:
        """Run entries in one transaction, which does not wait for the disk."""
        # The counts go with the completions, so that a kill loses a completion and its price together.
        with self._durable.without_sync(), self.ledger.flushed():
            # Completions together: one statement for all takes half the time of one for each.
            stored = iter(self.cache.put_many([entry.run for entry in entries if isinstance(entry.run, NewEntry)]))
            return [next(stored) if isinstance(entry.run, NewEntry) else entry.run(self.cache) for entry in entries]

    def _record_lost(self, job: Sequence[str], keys: Sequence[str]) -> None:
        """Record calls that a killed process had in flight; it may have stored the completion, or submitted a batch."""
        known = self.cache.find_keys(keys) | self.batches.find_keys(keys)
        self.ledger.record_lost(SpendScope(*job), len(set(keys) - known))


def calls_file(root: Path) -> Path:
    """Return the database of paid calls; a store written before 0.1 keeps its file `books.sqlite`."""
    earlier = root / "books.sqlite"
    return earlier if earlier.exists() else root / CALLS_FILE
