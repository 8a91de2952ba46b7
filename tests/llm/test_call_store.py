"""CallStore: a completion and its price share a transaction, and so do simultaneous writes."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback import Server, request

from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.core.errors import StoreError
from tapir_exp.llm import group_writer
from tapir_exp.llm.call_store import CALLS_FILE, TRAFFIC_FILE, CallStore
from tapir_exp.llm.chat import ChatRequest, Completion, Message, Usage
from tapir_exp.llm.client import Client
from tapir_exp.llm.executor import run_request_stream
from tapir_exp.llm.failures import FailureKind
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.llm.response_cache import ResponseCache
from tapir_exp.llm.sqlite import Database

USAGE = Usage(prompt_tokens=3, completion_tokens=1, usd=0.5)
COMPLETION = Completion(text="Because.", finish_reason="stop", usage=USAGE)
REQUEST = ChatRequest(messages=(Message(role="user", content="Why?"),), max_tokens=10)

WRITER = """
import asyncio, sys
from pathlib import Path
from tapir_exp.config import SpendConfig
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Completion, Message, Usage
from tapir_exp.llm.ledger import SpendScope
call_store = CallStore(Path(sys.argv[1]), SpendScope("run"), SpendConfig())
usage = Usage(prompt_tokens=3, completion_tokens=1, usd=0.5)
completion = Completion(text="Because.", finish_reason="stop", usage=usage)
request = ChatRequest(messages=(Message(role="user", content="Why?"),), max_tokens=10)
async def store(key):
    await asyncio.sleep(0)
    call_store.ledger.record_paid("teacher", usage)
    await call_store.write(lambda cache: cache.put(key, "m", request, completion))
    print(key, flush=True)
async def main():
    for start in range(0, 10**6, 3):
        await asyncio.gather(*(store(f"{sys.argv[2]}-{start + index}") for index in range(3)))
asyncio.run(main())
"""


def put(call_store: CallStore, key: str) -> Callable[[ResponseCache], Any]:
    call_store.ledger.record_paid("teacher", USAGE)
    return lambda cache: cache.put(key, "m", REQUEST, COMPLETION)


def write_all(call_store: CallStore, *entries: Callable[[ResponseCache], Any]) -> list[Any]:
    async def gather_all() -> list[Any]:
        return await asyncio.gather(*map(call_store.write, entries), return_exceptions=True)

    return asyncio.run(gather_all())


def open_store(tmp_path: Path) -> CallStore:
    return CallStore(tmp_path / "call_store", SpendScope("run"), SpendConfig())


def count_transactions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    transactions: list[str] = []
    transaction = Database.transaction

    def record_transaction(database: Database) -> Any:
        transactions.append(database.path.name)
        return transaction(database)

    monkeypatch.setattr(Database, "transaction", record_transaction)
    return transactions


def test_simultaneous_writes_share_a_transaction(
    call_store: CallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions = count_transactions(monkeypatch)
    # The pause after a transaction makes one group of the five entries, whatever the threads do.
    monkeypatch.setattr(group_writer, "MIN_INTERVAL_S", 0.2)
    assert write_all(call_store, put(call_store, "before")) == [COMPLETION]
    assert write_all(call_store, *(put(call_store, key) for key in "abcde")) == [COMPLETION] * 5
    assert transactions == [CALLS_FILE] * 2
    other = open_store(tmp_path)
    assert len(other.cache.get_many(list("abcde"))) == 5
    assert other.ledger.spent_by_scope().calls == 6
    other.close()


def test_write_returns_after_completion_and_price_are_stored(call_store: CallStore, tmp_path: Path) -> None:
    other = open_store(tmp_path)

    async def write_in_sequence() -> None:
        for number, key in enumerate("abc", 1):
            await call_store.write(put(call_store, key))
            assert other.cache.get(key) == COMPLETION
            assert other.ledger.spent_by_scope().usd == number * 0.5

    asyncio.run(write_in_sequence())
    other.close()


def test_failed_entry_rolls_back_all_entries(call_store: CallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: ResponseCache) -> None:
        raise OSError("the disk is full")

    # The pause after a transaction makes one group of the three entries, whatever the threads do.
    monkeypatch.setattr(group_writer, "MIN_INTERVAL_S", 0.2)
    assert write_all(call_store, put(call_store, "before")) == [COMPLETION]
    results = write_all(call_store, put(call_store, "a"), fail, put(call_store, "b"))
    assert [str(result) for result in results] == ["the disk is full"] * 3
    assert call_store.cache.get_many(["a", "b"]) == {}
    assert write_all(call_store, put(call_store, "c")) == [COMPLETION]
    assert list(call_store.cache.get_many(["a", "b", "c"])) == ["c"]
    assert call_store.ledger.spent_by_scope().calls == 4


def test_cancelled_writer_does_not_block_others(call_store: CallStore) -> None:
    def fail(_: ResponseCache) -> None:
        raise OSError("the disk is full")

    async def cancel_first(*entries: Callable[[ResponseCache], Any]) -> list[Any]:
        writers = [asyncio.ensure_future(call_store.write(entry)) for entry in entries]
        asyncio.get_running_loop().call_soon(writers[0].cancel)
        await asyncio.sleep(0)
        return await asyncio.gather(*writers, return_exceptions=True)

    first, second = asyncio.run(cancel_first(put(call_store, "a"), put(call_store, "b")))
    assert isinstance(first, asyncio.CancelledError)
    assert second == COMPLETION
    assert set(call_store.cache.get_many(["a", "b"])) == {"a", "b"}
    first, second = asyncio.run(cancel_first(fail, put(call_store, "c")))
    assert isinstance(second, OSError)


@pytest.mark.slow
def test_killed_process_stores_completion_and_price_together(tmp_path: Path) -> None:
    for turn in range(2):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "call_store"), str(turn)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            keys = [writer.stdout.readline().strip() for _ in range(40)]
            time.sleep(0.013 * turn)
            os.kill(writer.pid, signal.SIGKILL)
        call_store = open_store(tmp_path)
        (summary,), paid = call_store.cache.summaries(), call_store.ledger.spent_by_scope()
        assert len(call_store.cache.get_many(keys)) == 40
        assert (paid.calls, paid.usd) == (summary.replies, summary.replies * 0.5)
        call_store.close()


def test_close_flushes_ledger_and_releases_locks(tmp_path: Path) -> None:
    call_store, other = open_store(tmp_path), open_store(tmp_path)
    assert call_store.locks.acquire("k")
    call_store.ledger.record_cached("teacher")
    call_store.close()
    assert other.locks.acquire("k")
    assert other.ledger.spent_by_scope().cached == 1
    other.close()


def test_limiter_is_per_endpoint_model_and_key(call_store: CallStore) -> None:
    config = LLMConfig(model="m", requests_per_minute=1)
    changed = [{"api_base": "http://localhost/v1"}, {"model": "n"}, {"api_key_env": "KEY"}]
    now = time.time()
    assert call_store.limiter(config).acquire(1, now) == 0.0
    assert (
        call_store.limiter(LLMConfig(model="m", requests_per_minute=1, timeout_s=1.0, max_attempts=1)).acquire(1, now)
        > 0.0
    )
    for change in changed:
        other = LLMConfig(**{"model": "m", "requests_per_minute": 1, **change})
        assert call_store.limiter(other).acquire(1, now) == 0.0


def test_only_calls_file_is_durable(call_store: CallStore, tmp_path: Path) -> None:
    assert {path.name for path in (tmp_path / "call_store").glob("*.sqlite")} == {CALLS_FILE, TRAFFIC_FILE}
    levels = [
        database.run("PRAGMA synchronous").fetchone()[0] for database in (call_store._durable, call_store._traffic)
    ]
    assert levels == [2, 0]


KILLED = """
import os, signal, sys
from pathlib import Path
from tapir_exp.config import SpendConfig
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Completion, Usage
from tapir_exp.llm.ledger import SpendScope
store = CallStore(Path(sys.argv[1]), SpendScope("sweep", "job"), SpendConfig())
assert all(store.locks.acquire(key) for key in "abcd")
usage = Usage(prompt_tokens=1, completion_tokens=1, usd=0.5)
reply = Completion(text="yes", finish_reason="stop", usage=usage)
store.cache.put("a", "m", ChatRequest(messages=(), max_tokens=1), reply)
store.batches.add("account", "batch", ["b"])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("scope", [SpendScope("sweep", "job"), SpendScope("sweep", "other")])
def test_calls_in_flight_at_a_kill_are_recorded(tmp_path: Path, scope: SpendScope) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "call_store")], check=False)
    # Of four keys, one has its completion and one is in a batch; whoever opens the store first records the others.
    for _ in range(2):
        CallStore(tmp_path / "call_store", scope, SpendConfig()).close()
    call_store = CallStore(tmp_path / "call_store", SpendScope("sweep", "job"), SpendConfig())
    assert [(failure.kind, failure.count) for failure in call_store.ledger.failure_counts()] == [(FailureKind.LOST, 2)]
    call_store.close()
    assert list((tmp_path / "call_store" / "owners").iterdir()) == []


@pytest.mark.parametrize(("budget", "sent"), [(SpendConfig(), 5), (SpendConfig(max_calls=99), 1)], ids=["none", "99"])
def test_next_call_starts_while_a_reply_is_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: SpendConfig, sent: int
) -> None:
    """No reply is used before it is on disk. The one slot is free meanwhile, unless the price is needed first."""
    written, used = threading.Event(), list[str]()
    sync = Database.sync

    def sync_later(database: Database) -> None:
        assert written.wait(20)
        sync(database)

    monkeypatch.setattr(Database, "sync", sync_later)
    call_store = CallStore(tmp_path / "call_store", SpendScope("run"), budget)
    chat = Client(LLMConfig(model="openai/m", api_base=server.base), "teacher", call_store)

    async def run() -> None:
        stream = run_request_stream(
            chat,
            [request(name) for name in "abcdefg"],
            lambda completion: completion.text,
            lambda _, result: used.append(result.raw),
            concurrency=1,
        )
        task = asyncio.ensure_future(stream)
        async with asyncio.timeout(20):
            while len(server.seen) < sent:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        # One slot, and four times as many calls whose replies are written.
        assert (len(server.seen), used) == (sent, [])
        written.set()
        await task

    asyncio.run(run())
    call_store.close()
    assert sorted(used) == [f"re: {name}" for name in "abcdefg"]


def test_counts_of_a_failed_write_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that fails, also one after the end of its event loop, loses no paid call."""
    call_store = open_store(tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    async def start_write() -> None:
        write = asyncio.ensure_future(call_store.write(put(call_store, "a")))
        await asyncio.sleep(0)
        assert not write.done()

    with monkeypatch.context() as patch:
        patch.setattr(ResponseCache, "put", fail)
        asyncio.run(start_write())
        call_store.close()
    other = open_store(tmp_path)
    assert (other.ledger.spent_by_scope().calls, other.cache.get("a")) == (1, None)
    other.close()


def test_completion_that_the_disk_does_not_take_is_not_used(
    call_store: CallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    (result,) = write_all(call_store, put(call_store, "a"))
    assert isinstance(result, StoreError)
    assert "Input/output error" in str(result)


def test_close_writes_what_is_pending(tmp_path: Path) -> None:
    call_store = open_store(tmp_path)

    async def start_writes() -> None:
        writes = [asyncio.ensure_future(call_store.write(put(call_store, key))) for key in "abc"]
        await asyncio.sleep(0)
        assert len(writes) == 3

    asyncio.run(start_writes())
    call_store.close()
    other = open_store(tmp_path)
    assert other.cache.find_keys("abc") == set("abc")
    other.close()


def test_write_of_an_ended_loop_does_not_block_the_next(
    tmp_path: Path, call_store: CallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_writer, "MIN_INTERVAL_S", 30.0)

    async def start_write() -> None:
        write = asyncio.ensure_future(call_store.write(put(call_store, "a")))
        await asyncio.sleep(0)
        assert not write.done()

    assert write_all(call_store, put(call_store, "first")) == [COMPLETION]
    asyncio.run(start_write())
    monkeypatch.setattr(group_writer, "MIN_INTERVAL_S", 0.0)
    assert write_all(call_store, put(call_store, "b")) == [COMPLETION]
    assert call_store.cache.find_keys(["a", "b"]) == {"a", "b"}


def test_reserve_looks_up_under_the_lock(call_store: CallStore, tmp_path: Path) -> None:
    other = open_store(tmp_path)
    other.cache.put("stored", "m", REQUEST, COMPLETION)
    assert other.locks.acquire("held")

    async def reserve_all() -> list[tuple[bool, Completion | None]]:
        return await asyncio.gather(*map(call_store.reserve, ["stored", "held", "new", "new"]))

    assert asyncio.run(reserve_all()) == [(True, COMPLETION), (False, None), (True, None), (False, None)]
    assert not other.locks.acquire("new")
    call_store.locks.release("new")
    assert other.locks.acquire("new")
    other.close()
