"""Response cache: keys, entries, pruning, and several processes on one file."""

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir_exp.core.errors import StoreError
from tapir_exp.llm.chat import ChatRequest, Completion, Message, TokenLogprob, Usage
from tapir_exp.llm.response_cache import KEYS_PER_QUERY, SCHEMA, CacheSummary, NewEntry, ResponseCache, cache_key, pack
from tapir_exp.llm.sqlite import Database

IDENTITY: dict[str, Any] = {"model": "openai/m", "api_base": None, "options": {"top_p": 0.9}}
REQUEST = ChatRequest(messages=(Message(role="user", content="Why?"),), max_tokens=10)

WRITER = """
import sys
from pathlib import Path
from tapir_exp.llm.response_cache import SCHEMA, ResponseCache
from tapir_exp.llm.chat import ChatRequest, Completion, Message, Usage
from tapir_exp.llm.sqlite import Database
cache = ResponseCache(Database(Path(sys.argv[1]), SCHEMA, durable=True))
request = ChatRequest(messages=(Message(role="user", content="Why?"),), max_tokens=10)
usage = Usage(prompt_tokens=1, completion_tokens=1, usd=None)
for i in range(int(sys.argv[3])):
    stored = cache.put(str(i), "m", request, Completion(text=sys.argv[2], finish_reason="stop", usage=usage))
    print(i, stored.text, flush=True)
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "calls.sqlite", SCHEMA, durable=False)
    yield database
    database.close()


@pytest.fixture
def cache(database: Database) -> ResponseCache:
    return ResponseCache(database)


def a_completion(text: str = "Because.") -> Completion:
    return Completion(text=text, finish_reason="stop", usage=Usage(prompt_tokens=3, completion_tokens=1, usd=0.5))


def start_writer(path: Path, text: str, count: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(path), text, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def set_time(monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    monkeypatch.setattr(time, "time", lambda: now)


def test_put_is_visible_to_other_connections(database: Database) -> None:
    top = ((TokenLogprob(token="Be", logprob=-0.1), TokenLogprob(token="So", logprob=-2.5)),)
    completion = a_completion("line\nbreak\u2028 and é").model_copy(update={"top_logprobs": top})
    assert ResponseCache(database).get("k") is None
    assert ResponseCache(database).put("k", "m", REQUEST, completion) == completion
    assert ResponseCache(Database(database.path, SCHEMA, durable=False)).get("k") == completion


def new_entry(key: str, text: str, *, accepts: bool = True) -> NewEntry:
    return NewEntry(key, "m", REQUEST, a_completion(text), lambda stored: accepts)


def test_put_many_stores_what_put_stores(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    set_time(monkeypatch, 7.0)
    keys = ["ab" * 32, "k"]
    ResponseCache(database).put_many([new_entry(key, key) for key in keys])
    together = database.run("SELECT * FROM completions").fetchall()
    ResponseCache(database).prune()
    for key in keys:
        ResponseCache(database).put(key, "m", REQUEST, a_completion(key))
    assert database.run("SELECT * FROM completions").fetchall() == together


@pytest.mark.parametrize("earlier", [False, True])
def test_put_many_keeps_a_stored_completion_that_is_usable(database: Database, earlier: bool) -> None:
    if earlier:
        database.run(
            "INSERT INTO replies VALUES ('x', 'm', 1, ?, ?)", *(r.model_dump_json() for r in (REQUEST, a_completion()))
        )
    cache = ResponseCache(database)
    for key in "ab":
        cache.put(key, "m", REQUEST, a_completion("first"))
    entries = [new_entry("a", "second"), new_entry("b", "second", accepts=False), new_entry("c", "second")]
    assert [stored.text for stored in cache.put_many(entries)] == ["first", "second", "second"]
    assert {key: stored.text for key, stored in cache.get_many(list("abc")).items()} == {
        "a": "first",
        "b": "second",
        "c": "second",
    }
    assert cache.put_many([]) == []


@settings(max_examples=40)
@given(
    st.lists(st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=st.text()), max_size=3),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.dictionaries(st.text(), st.text() | st.floats() | st.none(), max_size=3),
)
def test_key_is_that_of_sorted_json(
    turns: list[Message], number: int, temperature: float, options: dict[str, Any]
) -> None:
    named = {"max_tokens": number, "sample": number, "top_logprobs": number, "temperature": temperature}
    request = ChatRequest(messages=tuple(turns), **named)
    identity = {**IDENTITY, "options": options}
    text = json.dumps([identity, request.model_dump()], sort_keys=True, separators=(",", ":"))
    assert cache_key(identity, request) == sha256(text.encode()).hexdigest()


def test_first_completion_is_kept(cache: ResponseCache) -> None:
    cache.put("k", "m", REQUEST, a_completion("first"))
    assert cache.put("k", "m", REQUEST, a_completion("second")).text == "first"
    stored = cache.get("k")
    assert stored is not None
    assert stored.text == "first"


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
def test_cache_key_depends_on_every_field(identity: dict[str, Any], request_: ChatRequest) -> None:
    assert cache_key(identity, request_) != cache_key(IDENTITY, REQUEST)


def test_cache_key_ignores_order_of_params() -> None:
    one, other = {**IDENTITY, "options": {"a": 1, "b": 2}}, {**IDENTITY, "options": {"b": 2, "a": 1}}
    assert cache_key(one, REQUEST) == cache_key(other, REQUEST)


def test_get_many_spans_several_queries(cache: ResponseCache, database: Database) -> None:
    count = 2 * KEYS_PER_QUERY + 1
    with database.transaction():
        for number in range(count):
            cache.put(str(number), "m", REQUEST, a_completion(f"reply {number}"))
    keys = [str(number) for number in range(0, 2 * count, 2)]
    completions = cache.get_many(keys)
    assert {key: reply.text for key, reply in completions.items()} == {str(n): f"reply {n}" for n in range(0, count, 2)}
    assert cache.get_many([]) == {}


def test_summaries_are_by_model(cache: ResponseCache, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, model, time_s in (("1", "b", 30.0), ("2", "a", 20.0), ("3", "b", 10.0)):
        set_time(monkeypatch, time_s)
        cache.put(key, model, REQUEST, a_completion())
    size = len(REQUEST.model_dump_json() + a_completion().model_dump_json())
    assert cache.summaries() == [
        CacheSummary("a", replies=1, first=20.0, last=20.0, characters=size),
        CacheSummary("b", replies=2, first=10.0, last=30.0, characters=2 * size),
    ]


def test_entries_hold_request_and_time(cache: ResponseCache, monkeypatch: pytest.MonkeyPatch) -> None:
    set_time(monkeypatch, 5.0)
    cache.put("2", "b", REQUEST, a_completion("two"))
    cache.put("1", "a", REQUEST, a_completion("one"))
    first, second = cache.entries()
    assert (first.key, first.model, first.asked, first.request, first.reply) == (
        "1",
        "a",
        5.0,
        REQUEST,
        a_completion("one"),
    )
    assert second.key == "2"
    assert [entry.key for entry in cache.entries("b")] == ["2"]


def test_entries_are_streamed(cache: ResponseCache, database: Database) -> None:
    with database.transaction():
        for number in range(200):
            cache.put(str(number), "m", REQUEST, a_completion("x" * 50_000))
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
def test_prune_combines_conditions(
    cache: ResponseCache, monkeypatch: pytest.MonkeyPatch, model: str | None, before: float | None, left: str
) -> None:
    for number, of_model in enumerate("aabb", 1):
        set_time(monkeypatch, float(number))
        cache.put(str(number), of_model, REQUEST, a_completion())
    assert cache.count(model, before) == 4 - len(left)
    assert len(list(cache.entries())) == 4
    assert cache.prune(model, before) == 4 - len(left)
    assert [entry.key for entry in cache.entries()] == list(left)


@pytest.mark.slow
def test_processes_agree_on_first_completion(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    writers = [start_writer(path, f"writer {n}", 200) for n in range(3)]
    outputs = [writer.communicate(timeout=60)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert outputs[0].count("\n") == 200
    assert outputs[0] == outputs[1] == outputs[2]


def test_killed_process_loses_no_stored_completion(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    with start_writer(path, "stored", 10**6) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(50)]
        os.kill(writer.pid, signal.SIGKILL)
    cache = ResponseCache(Database(path, SCHEMA, durable=True))
    assert len(lines) == 50
    assert all(cache.get(line.split()[0]) is not None for line in lines)


PACKED_REQUEST = REQUEST.model_dump_json()
EARLIER_ROW = "INSERT INTO replies VALUES (?, ?, ?, ?, ?)"


@pytest.mark.parametrize(
    "content",
    [pack(PACKED_REQUEST, '{"text": "hm"}')[1], b"no zlib", zlib.compress(b"one line"), zlib.compress(b"\xff"), None],
)
def test_corrupt_entry_is_named(cache: ResponseCache, database: Database, content: bytes | None) -> None:
    cache.put("k", "m", REQUEST, a_completion())
    database.run("UPDATE completions SET content = ?", content)
    for read in (lambda: cache.get("k"), lambda: cache.get_many(["k"]), lambda: list(cache.entries())):
        with pytest.raises(StoreError, match=r"calls\.sqlite: entry k is not a Completion"):
            read()


def test_corrupt_request_is_named(cache: ResponseCache, database: Database) -> None:
    cache.put("k", "m", REQUEST, a_completion())
    database.run("UPDATE completions SET content = ?", pack("{}", a_completion().model_dump_json())[1])
    with pytest.raises(StoreError, match="entry k is not a ChatRequest"):
        list(cache.entries())


@pytest.fixture
def earlier(database: Database) -> ResponseCache:
    """Return a cache with one entry of the earlier table, `b`, among two of the present one."""
    values = ("b", "m", 5.0, PACKED_REQUEST, a_completion("earlier").model_dump_json())
    database.run(EARLIER_ROW, *values)
    cache = ResponseCache(database)
    for key in "ac":
        cache.put(key, "m", REQUEST, a_completion("present"))
    return cache


def test_earlier_entry_is_read_beside_present_ones(earlier: ResponseCache) -> None:
    assert {key: entry.text for key, entry in earlier.get_many(list("abcd")).items()} == {
        "a": "present",
        "b": "earlier",
        "c": "present",
    }
    found = earlier.get("b")
    assert found is not None
    assert found.text == "earlier"
    assert earlier.find_keys("abcd") == set("abc")
    assert [entry.key for entry in earlier.entries()] == list("abc")
    size = 3 * len(PACKED_REQUEST) + sum(len(a_completion(text).model_dump_json()) for text in ("earlier", "present"))
    (summary,) = earlier.summaries()
    assert (summary.replies, summary.characters) == (3, size + len(a_completion("present").model_dump_json()))


def test_earlier_entry_stays_first_unless_it_is_replaced(earlier: ResponseCache) -> None:
    assert earlier.put("b", "m", REQUEST, a_completion("later")).text == "earlier"
    assert earlier.count() == 3
    assert earlier.put("b", "m", REQUEST, a_completion("later"), replace=True).text == "later"
    assert (earlier.count(), earlier.get("b")) == (3, a_completion("later"))


def test_prune_deletes_earlier_entries_too(earlier: ResponseCache) -> None:
    assert earlier.prune(before=6.0) == 1
    assert [entry.key for entry in earlier.entries()] == ["a", "c"]
    assert earlier.prune() == 2


def test_hashed_keys_take_half_their_digits(cache: ResponseCache, database: Database) -> None:
    key = cache_key(IDENTITY, REQUEST)
    cache.put(key, "m", REQUEST, a_completion())
    assert database.run("SELECT length(key), typeof(key) FROM completions").fetchone() == (32, "blob")
    assert [entry.key for entry in cache.entries()] == [key]
    assert list(cache.get_many([key])) == [key]
