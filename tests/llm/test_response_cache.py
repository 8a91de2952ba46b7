"""The reply cache: addressed by all that changes a reply, shared by processes, and kept when one is killed."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapir_exp.core.errors import StoreError
from tapir_exp.llm.chat import ChatRequest, Completion, Message, TokenLogprob, Usage
from tapir_exp.llm.response_cache import KEYS_PER_QUERY, SCHEMA, CacheSummary, ResponseCache, cache_key
from tapir_exp.llm.sqlite import Database

IDENTITY: dict[str, Any] = {"model": "openai/m", "api_base": None, "options": {"top_p": 0.9}}
REQUEST = ChatRequest(messages=(Message(role="user", content="Why?"),), max_tokens=10)

WRITER = """
import sys
from pathlib import Path
from tapir_exp.llm.cache import SCHEMA, ReplyCache
from tapir_exp.llm.chat import ChatRequest, Message, Reply, Usage
from tapir_exp.llm.sqlite import Database
cache = ReplyCache(Database(Path(sys.argv[1]), SCHEMA, durable=True))
request = ChatRequest(messages=(Message(role="user", content="Why?"),), max_tokens=10)
usage = Usage(prompt_tokens=1, completion_tokens=1, usd=None)
for i in range(int(sys.argv[3])):
    kept = cache.put(str(i), "m", request, Reply(text=sys.argv[2], finish_reason="stop", usage=usage))
    print(i, kept.text, flush=True)
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "books.sqlite", SCHEMA, durable=False)
    yield database
    database.close()


@pytest.fixture
def cache(database: Database) -> ResponseCache:
    return ResponseCache(database)


def a_reply(text: str = "Because.") -> Completion:
    return Completion(text=text, finish_reason="stop", usage=Usage(prompt_tokens=3, completion_tokens=1, usd=0.5))


def start_writer(path: Path, text: str, count: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(path), text, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def set_time(monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    monkeypatch.setattr(time, "time", lambda: now)


def test_what_was_put_is_there_for_the_next_process(database: Database) -> None:
    top = ((TokenLogprob(token="Be", logprob=-0.1), TokenLogprob(token="So", logprob=-2.5)),)
    reply = a_reply("line\nbreak\u2028 and é").model_copy(update={"top_logprobs": top})
    assert ResponseCache(database).get("k") is None
    assert ResponseCache(database).put("k", "m", REQUEST, reply) == reply
    assert ResponseCache(Database(database.path, SCHEMA, durable=False)).get("k") == reply


def test_the_first_reply_counts(cache: ResponseCache) -> None:
    cache.put("k", "m", REQUEST, a_reply("first"))
    assert cache.put("k", "m", REQUEST, a_reply("second")).text == "first"
    kept = cache.get("k")
    assert kept is not None
    assert kept.text == "first"


@pytest.mark.parametrize(
    ("identity", "request_"),
    [
        ({**IDENTITY, "model": "openai/n"}, REQUEST),
        ({**IDENTITY, "api_base": "http://localhost"}, REQUEST),
        ({**IDENTITY, "options": {"top_p": 0.8}}, REQUEST),
        ({**IDENTITY, "version": "2"}, REQUEST),
        (IDENTITY, REQUEST.model_copy(update={"messages": (Message(role="system", content="Why?"),)})),
        (IDENTITY, REQUEST.model_copy(update={"messages": (Message(role="user", content="Why ?"),)})),
        (IDENTITY, REQUEST.model_copy(update={"messages": REQUEST.messages * 2})),
        (IDENTITY, REQUEST.model_copy(update={"max_tokens": 11})),
        (IDENTITY, REQUEST.model_copy(update={"temperature": 0.1})),
        (IDENTITY, REQUEST.model_copy(update={"sample": 1})),
        (IDENTITY, REQUEST.model_copy(update={"top_logprobs": 5})),
    ],
)
def test_the_key_depends_on_everything(identity: dict[str, Any], request_: ChatRequest) -> None:
    assert cache_key(identity, request_) != cache_key(IDENTITY, REQUEST)


def test_the_key_does_not_depend_on_the_order_of_options() -> None:
    one, other = {**IDENTITY, "options": {"a": 1, "b": 2}}, {**IDENTITY, "options": {"b": 2, "a": 1}}
    assert cache_key(one, REQUEST) == cache_key(other, REQUEST)


def test_many_are_looked_up_at_once(cache: ResponseCache, database: Database) -> None:
    count = 2 * KEYS_PER_QUERY + 1
    with database.transaction():
        for number in range(count):
            cache.put(str(number), "m", REQUEST, a_reply(f"reply {number}"))
    asked = [str(number) for number in range(0, 2 * count, 2)]
    found = cache.get_many(asked)
    assert {key: reply.text for key, reply in found.items()} == {str(n): f"reply {n}" for n in range(0, count, 2)}
    assert cache.get_many([]) == {}


def test_holdings_are_told_by_model(cache: ResponseCache, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, model, asked in (("1", "b", 30.0), ("2", "a", 20.0), ("3", "b", 10.0)):
        set_time(monkeypatch, asked)
        cache.put(key, model, REQUEST, a_reply())
    size = len(REQUEST.model_dump_json() + a_reply().model_dump_json())
    assert cache.summaries() == [
        CacheSummary("a", replies=1, first=20.0, last=20.0, characters=size),
        CacheSummary("b", replies=2, first=10.0, last=30.0, characters=2 * size),
    ]


def test_entries_hold_what_was_asked_and_when(cache: ResponseCache, monkeypatch: pytest.MonkeyPatch) -> None:
    set_time(monkeypatch, 5.0)
    cache.put("2", "b", REQUEST, a_reply("two"))
    cache.put("1", "a", REQUEST, a_reply("one"))
    first, second = cache.entries()
    assert (first.key, first.model, first.asked, first.request, first.reply) == ("1", "a", 5.0, REQUEST, a_reply("one"))
    assert second.key == "2"
    assert [entry.key for entry in cache.entries("b")] == ["2"]


def test_entries_are_read_one_at_a_time(cache: ResponseCache, database: Database) -> None:
    with database.transaction():
        for number in range(200):
            cache.put(str(number), "m", REQUEST, a_reply("x" * 50_000))
    tracemalloc.start()
    read = sum(len(entry.reply.text) for entry in cache.entries())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read == 200 * 50_000
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("model", "before", "left"),
    [(None, None, ""), ("a", None, "34"), (None, 3.0, "34"), ("b", 4.0, "124"), ("c", None, "1234")],
)
def test_what_is_pruned_is_what_meets_all_conditions(
    cache: ResponseCache, monkeypatch: pytest.MonkeyPatch, model: str | None, before: float | None, left: str
) -> None:
    for number, of_model in enumerate("aabb", 1):
        set_time(monkeypatch, float(number))
        cache.put(str(number), of_model, REQUEST, a_reply())
    assert cache.count(model, before) == 4 - len(left)
    assert len(list(cache.entries())) == 4
    assert cache.prune(model, before) == 4 - len(left)
    assert [entry.key for entry in cache.entries()] == list(left)


def test_processes_share_one_file_and_agree_on_what_counts(tmp_path: Path) -> None:
    path = tmp_path / "books.sqlite"
    writers = [start_writer(path, f"writer {n}", 200) for n in range(3)]
    heard = [writer.communicate(timeout=60)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert heard[0].count("\n") == 200
    assert heard[0] == heard[1] == heard[2]


def test_a_killed_process_loses_nothing_that_it_was_told_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "books.sqlite"
    with start_writer(path, "kept", 10**6) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(50)]
        os.kill(writer.pid, signal.SIGKILL)
    cache = ResponseCache(Database(path, SCHEMA, durable=True))
    assert len(told) == 50
    assert all(cache.get(line.split()[0]) is not None for line in told)


def test_an_entry_that_is_no_reply_is_named(cache: ResponseCache, database: Database) -> None:
    cache.put("k", "m", REQUEST, a_reply())
    database.run("UPDATE replies SET reply = ?", '{"text": "hm"}')
    for read in (lambda: cache.get("k"), lambda: cache.get_many(["k"]), lambda: list(cache.entries())):
        with pytest.raises(StoreError, match=r"call_store\.sqlite: the entry k is not a reply"):
            read()
    database.run("UPDATE replies SET request = ?", "{}")
    with pytest.raises(StoreError, match="the entry k is not a reply"):
        list(cache.entries())
