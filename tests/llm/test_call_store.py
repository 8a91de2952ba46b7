"""The call_store: a reply and its price are written at once, and what comes at one moment is one transaction."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.llm.call_store import CALLS_FILE, TRAFFIC_FILE, CallStore
from tapir_exp.llm.chat import ChatRequest, Completion, Message, Usage
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.llm.sqlite import Database

USAGE = Usage(prompt_tokens=3, completion_tokens=1, usd=0.5)
REPLY = Completion(text="Because.", finish_reason="stop", usage=USAGE)
REQUEST = ChatRequest(messages=(Message(role="user", content="Why?"),), max_tokens=10)

WRITER = """
import asyncio, sys
from pathlib import Path
from tapir_exp.config import SpendConfig
from tapir_exp.llm.call_store import Books
from tapir_exp.llm.chat import ChatRequest, Message, Reply, Usage
from tapir_exp.llm.ledger import Account
call_store = Books(Path(sys.argv[1]), Account("run"), SpendConfig())
usage = Usage(prompt_tokens=3, completion_tokens=1, usd=0.5)
reply = Reply(text="Because.", finish_reason="stop", usage=usage)
request = ChatRequest(messages=(Message(role="user", content="Why?"),), max_tokens=10)
async def keep(key):
    await asyncio.sleep(0)
    call_store.ledger.record_paid("teacher", usage)
    await call_store.write(lambda: call_store.cache.put(key, "m", request, reply))
    print(key, flush=True)
async def main():
    for start in range(0, 10**6, 3):
        await asyncio.gather(*(keep(f"{sys.argv[2]}-{start + place}") for place in range(3)))
asyncio.run(main())
"""


def put(call_store: CallStore, key: str) -> Callable[[], Any]:
    call_store.ledger.record_paid("teacher", USAGE)
    return lambda: call_store.cache.put(key, "m", REQUEST, REPLY)


def write_all(call_store: CallStore, *entries: Callable[[], Any]) -> list[Any]:
    async def together() -> list[Any]:
        return await asyncio.gather(*map(call_store.write, entries), return_exceptions=True)

    return asyncio.run(together())


def opened(tmp_path: Path) -> CallStore:
    return CallStore(tmp_path / "call_store", SpendScope("run"), SpendConfig())


def count_transactions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    begun: list[str] = []
    transaction = Database.transaction

    def noted(database: Database) -> Any:
        begun.append(database.path.name)
        return transaction(database)

    monkeypatch.setattr(Database, "transaction", noted)
    return begun


def test_what_is_written_at_one_moment_is_one_transaction(
    call_store: CallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = count_transactions(monkeypatch)
    assert write_all(call_store, *(put(call_store, key) for key in "abcde")) == [None] * 5
    assert begun == [CALLS_FILE]
    other = opened(tmp_path)
    assert len(other.replies.get_many(list("abcde"))) == 5
    assert other.ledger.spent_by_scope().calls == 5
    other.close()


def test_a_reply_is_on_disk_when_the_write_returns_with_its_price(call_store: CallStore, tmp_path: Path) -> None:
    other = opened(tmp_path)

    async def one_after_the_other() -> None:
        for number, key in enumerate("abc", 1):
            await call_store.write(put(call_store, key))
            assert other.replies.get(key) == REPLY
            assert other.ledger.spent_by_scope().usd == number * 0.5

    asyncio.run(one_after_the_other())
    other.close()


def test_an_error_reaches_all_writers_and_nothing_is_written(call_store: CallStore) -> None:
    def fail() -> None:
        raise OSError("the disk is full")

    results = write_all(call_store, put(call_store, "a"), fail, put(call_store, "b"))
    assert [str(result) for result in results] == ["the disk is full"] * 3
    assert call_store.cache.get_many(["a", "b"]) == {}
    assert write_all(call_store, put(call_store, "c")) == [None]
    assert list(call_store.cache.get_many(["a", "b", "c"])) == ["c"]
    assert call_store.ledger.spent_by_scope().calls == 3


def test_a_writer_that_was_cancelled_keeps_nobody_from_writing(call_store: CallStore) -> None:
    def fail() -> None:
        raise OSError("the disk is full")

    async def cancel_first(*entries: Callable[[], Any]) -> list[Any]:
        writers = [asyncio.ensure_future(call_store.write(entry)) for entry in entries]
        asyncio.get_running_loop().call_soon(writers[0].cancel)
        await asyncio.sleep(0)
        return await asyncio.gather(*writers, return_exceptions=True)

    first, second = asyncio.run(cancel_first(put(call_store, "a"), put(call_store, "b")))
    assert isinstance(first, asyncio.CancelledError)
    assert second is None
    assert set(call_store.cache.get_many(["a", "b"])) == {"a", "b"}
    first, second = asyncio.run(cancel_first(fail, put(call_store, "c")))
    assert isinstance(second, OSError)


def test_a_killed_process_has_written_replies_with_their_price_or_neither(tmp_path: Path) -> None:
    for turn in range(2):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "call_store"), str(turn)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            told = [writer.stdout.readline().strip() for _ in range(40)]
            time.sleep(0.013 * turn)
            os.kill(writer.pid, signal.SIGKILL)
        call_store = opened(tmp_path)
        (held,), paid = call_store.cache.summaries(), call_store.ledger.spent_by_scope()
        assert len(call_store.cache.get_many(told)) == 40
        assert (paid.calls, paid.usd) == (held.replies, held.replies * 0.5)
        call_store.close()


def test_closing_writes_what_was_counted_and_gives_claims_back(tmp_path: Path) -> None:
    call_store, other = opened(tmp_path), opened(tmp_path)
    assert call_store.locks.acquire("k")
    call_store.ledger.record_cached("teacher")
    call_store.close()
    assert other.locks.acquire("k")
    assert other.ledger.spent_by_scope().cached == 1
    other.close()


def test_an_account_is_an_endpoint_a_model_and_a_key(call_store: CallStore) -> None:
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


def test_what_must_last_and_what_need_not_are_two_files(call_store: CallStore, tmp_path: Path) -> None:
    assert {path.name for path in (tmp_path / "call_store").glob("*.sqlite")} == {CALLS_FILE, TRAFFIC_FILE}
    levels = [
        database.run("PRAGMA synchronous").fetchone()[0] for database in (call_store._durable, call_store._traffic)
    ]
    assert levels == [2, 0]
