"""Everything that the chat models of one job share: cached completions and spend on disk, locks and rate limits."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.llm import batch_api, inflight, ledger, rate_limit, response_cache
from tapir_exp.llm.inflight import InFlightLocks
from tapir_exp.llm.ledger import Ledger, SpendScope
from tapir_exp.llm.rate_limit import RateLimiter
from tapir_exp.llm.response_cache import ResponseCache
from tapir_exp.llm.sqlite import Database

ValueT = TypeVar("ValueT")

CALLS_FILE = "calls.sqlite"
"""Completions, spend and batches. Writes wait for the disk, so that no call is paid twice."""
TRAFFIC_FILE = "traffic.sqlite"
"""In-flight locks and rate limits. They hold for a minute, so writes do not wait for the disk."""


class CallStore:
    """The two databases of a store; a completion and its price are written in one transaction.

    Attributes:
        cache: Completions by request.
        ledger: Calls and spend of this job.
        batches: Batches that are in progress at the providers.
        locks: Requests that are in flight in any process.
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
        self._durable = Database(
            calls_file(root), response_cache.SCHEMA + ledger.SCHEMA + batch_api.SCHEMA, durable=True
        )
        self._traffic = Database(root / TRAFFIC_FILE, inflight.SCHEMA + rate_limit.SCHEMA, durable=False)
        self.cache = ResponseCache(self._durable)
        self.ledger = Ledger(self._durable, scope, budget)
        self.batches = batch_api.BatchRecords(self._durable)
        self.locks = InFlightLocks(self._traffic, (scope.scope, scope.job), self._record_lost)
        self._arguments = (root, scope, budget)
        self._pending: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []

    def limiter(self, config: LLMConfig) -> RateLimiter:
        """Return the rate limiter of a model's account: its endpoint, model and API key variable."""
        account = f"{config.api_base} {config.model} {config.api_key_env}"
        return RateLimiter(self._traffic, account, config.requests_per_minute, config.tokens_per_minute)

    async def write(self, entry: Callable[[], ValueT]) -> ValueT:
        """Run `entry`, which changes the durable database, and return its value once the change is on disk.

        Entries of the same moment share one transaction, because one wait for the disk costs as much as ten calls.
        """
        loop = asyncio.get_running_loop()
        written: asyncio.Future[ValueT] = loop.create_future()
        self._pending.append((entry, written))
        # The first entry schedules the transaction; all entries of this pass of the event loop join it.
        if len(self._pending) == 1:
            loop.call_soon(self._write_pending)
        return await written

    @contextmanager
    def reopened(self) -> Iterator["CallStore"]:
        """Open the same databases again, with connections that belong to the current thread."""
        second = CallStore(*self._arguments)
        try:
            yield second
        finally:
            second.close()

    def close(self) -> None:
        """Write the rest of the ledger, release all locks and close the databases."""
        self.ledger.flush()
        self.locks.close()
        self._durable.close()
        self._traffic.close()

    def _record_lost(self, job: Sequence[str], keys: Sequence[str]) -> None:
        """Record calls that a killed process had in flight; it may have stored the completion, or submitted a batch."""
        known = self.cache.find_keys(keys) | self.batches.find_keys(keys)
        self.ledger.record_lost(SpendScope(*job), len(set(keys) - known))

    def _write_pending(self) -> None:
        pending, self._pending = self._pending, []
        try:
            with self.ledger.flushed():
                values = [entry() for entry, _ in pending]
        except Exception as error:
            # The transaction was rolled back, so every entry failed, not just the one that raised.
            for _, written in pending:
                if not written.cancelled():
                    written.set_exception(error)
        else:
            for (_, written), value in zip(pending, values, strict=True):
                if not written.cancelled():
                    written.set_result(value)


def calls_file(root: Path) -> Path:
    """Return the database of paid calls; a store written before 0.1 keeps its file `books.sqlite`."""
    earlier = root / "books.sqlite"
    return earlier if earlier.exists() else root / CALLS_FILE
