"""Replies that were paid for once: content-addressed, shared by runs and sweep jobs, kept before they are used."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

from pydantic import ValidationError

from tapir_exp.core.errors import StoreError
from tapir_exp.core.records import Record
from tapir_exp.llm.chat import ChatRequest, Completion
from tapir_exp.llm.sqlite import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS replies
    (key TEXT PRIMARY KEY, model TEXT, asked REAL, request TEXT, reply TEXT) WITHOUT ROWID;
"""
KEYS_PER_QUERY = 500
"""Keys looked up by one statement."""

RecordT = TypeVar("RecordT", bound=Record)


class CacheEntry(Record):
    """A reply with what was asked and when (seconds since 1970)."""

    key: str
    model: str
    asked: float
    request: ChatRequest
    reply: Completion


@dataclass(frozen=True)
class CacheSummary:
    """What the cache holds of one model; first and last in seconds since 1970."""

    model: str
    replies: int
    first: float
    last: float
    characters: int


def cache_key(identity: Mapping[str, Any], request: ChatRequest) -> str:
    """The address of a reply: SHA-256, in hex, over everything that could change it."""
    text = json.dumps([identity, request.model_dump()], sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


class ResponseCache:
    """Good replies by key: a reply outlives the process once the transaction that `put` is part of has ended."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str) -> Completion | None:
        """The reply, or None. Raises StoreError where what is stored is not a reply of this version."""
        row = self._database.run("SELECT reply FROM replies WHERE key = ?", key).fetchone()
        return None if row is None else self._read(key, row[0], Completion)

    def get_many(self, keys: Sequence[str]) -> dict[str, Completion]:
        """The replies that are there, by key. Raises StoreError as `get`."""
        found: dict[str, Completion] = {}
        for start in range(0, len(keys), KEYS_PER_QUERY):
            some = keys[start : start + KEYS_PER_QUERY]
            marks = ",".join("?" * len(some))
            rows = self._database.run(f"SELECT key, reply FROM replies WHERE key IN ({marks})", *some)
            found.update((key, self._read(key, text, Completion)) for key, text in rows)
        return found

    def put(self, key: str, model: str, request: ChatRequest, reply: Completion) -> Completion:
        """Keep a reply, and return the one that counts: the first, should two processes have asked at once."""
        values = (key, model, time.time(), request.model_dump_json(), reply.model_dump_json())
        added = self._database.run("INSERT INTO replies VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", *values)
        return reply if added.rowcount else self.get(key) or reply

    def summaries(self) -> list[CacheSummary]:
        """What is there, by model."""
        rows = self._database.run(
            "SELECT model, count(*), min(asked), max(asked), sum(length(request) + length(reply)) "
            "FROM replies GROUP BY model ORDER BY model"
        )
        return [CacheSummary(*row) for row in rows]

    def entries(self, model: str | None = None) -> Iterator[CacheEntry]:
        """Every reply, of one model or of all, one at a time. Raises StoreError as `get`."""
        where, values = _where_clause(model, None)
        rows = self._database.run(
            f"SELECT key, model, asked, request, reply FROM replies {where} ORDER BY key", *values
        )
        for key, of_model, asked, question, answer in rows:
            request, reply = self._read(key, question, ChatRequest), self._read(key, answer, Completion)
            yield CacheEntry(key=key, model=of_model, asked=asked, request=request, reply=reply)

    def prune(self, model: str | None = None, before: float | None = None) -> int:
        """Forget the replies of one model, or those asked before a time (seconds since 1970), or both; how many."""
        where, values = _where_clause(model, before)
        return self._database.run(f"DELETE FROM replies {where}", *values).rowcount

    def count(self, model: str | None = None, before: float | None = None) -> int:
        """How many replies `prune` would forget."""
        where, values = _where_clause(model, before)
        return int(self._database.run(f"SELECT count(*) FROM replies {where}", *values).fetchone()[0])

    def _read(self, key: str, text: str, kind: type[RecordT]) -> RecordT:
        try:
            return kind.model_validate_json(text)
        except ValidationError as error:
            raise StoreError(f"{self._database.path}: the entry {key} is not a reply: {error}") from error


def _where_clause(model: str | None, before: float | None) -> tuple[str, list[Any]]:
    """The clause that meets the conditions given, and its values."""
    conditions = {"model = ?": model, "asked < ?": before}
    given = {condition: value for condition, value in conditions.items() if value is not None}
    return (f"WHERE {' AND '.join(given)}" if given else ""), list(given.values())
