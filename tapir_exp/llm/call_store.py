"""What the chat models of one job share: the replies and the ledger on disk, and the traffic to the providers."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.llm import batch_api, inflight, ledger, rate_limit, response_cache
from tapir_exp.llm.inflight import InFlightLocks
from tapir_exp.llm.ledger import Ledger, SpendScope
from tapir_exp.llm.rate_limit import RateLimiter
from tapir_exp.llm.response_cache import ResponseCache
from tapir_exp.llm.sqlite import Database

CALLS_FILE = "calls.sqlite"
"""Replies, spend and batches: what was paid for. It waits for the disk, so that nothing is paid twice."""
TRAFFIC_FILE = "traffic.sqlite"
"""Claims and rate limits: what holds for a minute. It waits for nothing."""


class CallStore:
    """The two files of a store, and one way of writing down what was paid: a reply and its price at once."""

    def __init__(self, root: Path, account: SpendScope, budget: SpendConfig) -> None:
        """root: directory of the store. Raises StoreError where one of the files is something else."""
        self._durable = Database(
            calls_file(root), response_cache.SCHEMA + ledger.SCHEMA + batch_api.SCHEMA, durable=True
        )
        self._traffic = Database(root / TRAFFIC_FILE, inflight.SCHEMA + rate_limit.SCHEMA, durable=False)
        self.cache = ResponseCache(self._durable)
        self.ledger = Ledger(self._durable, account, budget)
        self.batches = batch_api.BatchRecords(self._durable)
        self.locks = InFlightLocks(self._traffic)
        self._waiting: list[tuple[Callable[[], None], asyncio.Future[None]]] = []

    def limiter(self, config: LLMConfig) -> RateLimiter:
        """The gate to a model's account: the endpoint, the model and the key by which the provider tells us apart."""
        account = f"{config.api_base} {config.model} {config.api_key_env}"
        return RateLimiter(self._traffic, account, config.requests_per_minute, config.tokens_per_minute)

    async def write(self, entry: Callable[[], None]) -> None:
        """Carry out a change of the durable file; it is on disk when this returns.

        What comes at the same moment is written together: a wait for the disk costs as much as ten calls.
        """
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, written))
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._write_all)
        await written

    def close(self) -> None:
        """Let go of the files and of all claims."""
        self.ledger.flush()
        self.locks.close()
        self._durable.close()
        self._traffic.close()

    def _write_all(self) -> None:
        entries, self._waiting = self._waiting, []
        waiting = [written for _, written in entries if not written.cancelled()]
        try:
            with self._durable.transaction():
                for entry, _ in entries:
                    entry()
                self.ledger.flush()
        except Exception as error:
            for written in waiting:
                written.set_exception(error)
        else:
            for written in waiting:
                written.set_result(None)


def calls_file(root: Path) -> Path:
    """Return the file of paid calls; a store written before 0.1 keeps its file under the name it had."""
    earlier = root / "books.sqlite"
    return earlier if earlier.exists() else root / CALLS_FILE
