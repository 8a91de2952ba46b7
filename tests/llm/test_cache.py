"""The reply cache: addressed by all that changes a reply, shared by processes, and kept when one is killed."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tapir_exp.errors import StoreError
from tapir_exp.llm.cache import ReplyCache, cache_key
from tapir_exp.llm.chat import ChatRequest, Message, Reply, Usage

IDENTITY: dict[str, Any] = {"model": "openai/m", "api_base": None, "options": {"top_p": 0.9}}
REQUEST = ChatRequest(messages=(Message(role="user", content="Why?"),), max_tokens=10)

WRITER = """
import sys
from pathlib import Path
from tapir_exp.llm.cache import ReplyCache
from tapir_exp.llm.chat import Reply, Usage
cache = ReplyCache(Path(sys.argv[1]))
usage = Usage(prompt_tokens=1, completion_tokens=1, usd=None)
for i in range(int(sys.argv[3])):
    kept = cache.put(str(i), Reply(text=sys.argv[2], finish_reason="stop", usage=usage))
    print(i, kept.text, flush=True)
"""


def a_reply(text: str = "Because.") -> Reply:
    return Reply(text=text, finish_reason="stop", usage=Usage(prompt_tokens=3, completion_tokens=1, usd=0.5))


def start_writer(path: Path, text: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), text, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_what_was_put_is_there_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "below" / "replies.sqlite"
    first = ReplyCache(path)
    assert first.get("k") is None
    assert first.put("k", a_reply("line\nbreak\u2028 and é")) == a_reply("line\nbreak\u2028 and é")
    first.close()
    assert ReplyCache(path).get("k") == a_reply("line\nbreak\u2028 and é")


def test_the_first_reply_counts(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path / "replies.sqlite")
    cache.put("k", a_reply("first"))
    assert cache.put("k", a_reply("second")).text == "first"
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
    ],
)
def test_the_key_depends_on_everything(identity: dict[str, Any], request_: ChatRequest) -> None:
    assert cache_key(identity, request_) != cache_key(IDENTITY, REQUEST)


def test_the_key_does_not_depend_on_the_order_of_options() -> None:
    one, other = {**IDENTITY, "options": {"a": 1, "b": 2}}, {**IDENTITY, "options": {"b": 2, "a": 1}}
    assert cache_key(one, REQUEST) == cache_key(other, REQUEST)


def test_processes_share_one_file_and_agree_on_what_counts(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    writers = [start_writer(path, f"writer {n}", 200) for n in range(3)]
    heard = [writer.communicate(timeout=60)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert heard[0].count("\n") == 200
    assert heard[0] == heard[1] == heard[2]


def test_a_killed_process_loses_nothing_that_it_was_told_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    with start_writer(path, "kept", 10**6) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(50)]
        os.kill(writer.pid, signal.SIGKILL)
    cache = ReplyCache(path)
    assert len(told) == 50
    assert all(cache.get(line.split()[0]) is not None for line in told)


def test_commits_do_not_wait_for_the_disk_but_survive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    ReplyCache(path)
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    path.write_text("This is a letter, not a database. " * 100)
    with pytest.raises(StoreError, match=r"replies\.sqlite: not a reply cache"):
        ReplyCache(path)


def test_an_entry_that_is_no_reply_is_named(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    cache = ReplyCache(path)
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO replies VALUES ('k', '{\"text\": \"hm\"}')")
    with pytest.raises(StoreError, match=r"replies\.sqlite: the entry k is not a reply"):
        cache.get("k")
