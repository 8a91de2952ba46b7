"""Cache of completions, addressed by request and shared by all runs of a store."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

from pydantic import ValidationError

from tapir_exp.core.errors import StoreError
from tapir_exp.core.records import Record
from tapir_exp.llm.chat import ChatRequest, Completion
from tapir_exp.llm.sqlite import Database

# Stores outlive versions: table, columns and JSON fields keep their names.
SCHEMA = """
CREATE TABLE IF NOT EXISTS replies
    (key TEXT PRIMARY KEY, model TEXT, asked REAL, request TEXT, reply TEXT) WITHOUT ROWID;
"""
KEYS_PER_QUERY = 500
"""Keys per SELECT statement."""

RecordT = TypeVar("RecordT", bound=Record)


class CacheEntry(Record):
    """A cached completion, as `tapir cache export` writes it.

    Attributes:
        key: Key of the request.
        model: Name of the model.
        asked: When the request was made, in seconds since 1970.
        request: The request.
        reply: The completion.
    """

    key: str
    model: str
    asked: float
    request: ChatRequest
    reply: Completion


@dataclass(frozen=True)
class CacheSummary:
    """Summary of the cached completions of one model.

    Attributes:
        model: Name of the model.
        replies: Number of completions.
        first: Time of the first request, in seconds since 1970.
        last: Time of the last request.
        characters: Size of all requests and completions as JSON.
    """

    model: str
    replies: int
    first: float
    last: float
    characters: int


def cache_key(identity: Mapping[str, Any], request: ChatRequest) -> str:
    """Return the key of a request: a SHA-256 over everything that could change its completion.

    Args:
        identity: What identifies the model, see `ChatModel.identity`.
        request: The request.
    """
    # Stored caches depend on these exact bytes: field names, order and separators.
    text = json.dumps([identity, request.model_dump()], sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


class ResponseCache:
    """Usable completions by key. A completion is on disk once the transaction around `put` ends."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str) -> Completion | None:
        """Return a completion, or None if it is not cached.

        Raises:
            StoreError: If the stored text is not a completion.
        """
        row = self._database.run("SELECT reply FROM replies WHERE key = ?", key).fetchone()
        return None if row is None else self._parse(key, row[0], Completion)

    def get_many(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Return the cached completions by key.

        Raises:
            StoreError: If a stored text is not a completion.
        """
        completions: dict[str, Completion] = {}
        # SQLite limits the number of parameters of a statement.
        for start in range(0, len(keys), KEYS_PER_QUERY):
            chunk = keys[start : start + KEYS_PER_QUERY]
            marks = ",".join("?" * len(chunk))
            rows = self._database.run(f"SELECT key, reply FROM replies WHERE key IN ({marks})", *chunk)
            completions.update((key, self._parse(key, text, Completion)) for key, text in rows)
        return completions

    def find_keys(self, keys: Iterable[str]) -> set[str]:
        """Return the keys that have a completion."""
        return {key for key in keys if self._database.run("SELECT 1 FROM replies WHERE key = ?", key).fetchone()}

    def put(
        self, key: str, model: str, request: ChatRequest, completion: Completion, *, replace: bool = False
    ) -> Completion:
        """Store a completion, and return the stored one.

        If another process has stored a completion of the same request, the first one is valid for all, unless
        `replace` says that it is of no use.
        """
        values = (key, model, time.time(), request.model_dump_json(), completion.model_dump_json())
        conflict = "OR REPLACE" if replace else ""
        cursor = self._database.run(
            f"INSERT {conflict} INTO replies VALUES (?, ?, ?, ?, ?)" + ("" if replace else " ON CONFLICT DO NOTHING"),
            *values,
        )
        return completion if cursor.rowcount else self.get(key) or completion

    def summaries(self) -> list[CacheSummary]:
        """Return a summary of each model, by name."""
        rows = self._database.run(
            "SELECT model, count(*), min(asked), max(asked), sum(length(request) + length(reply)) "
            "FROM replies GROUP BY model ORDER BY model"
        )
        return [CacheSummary(*row) for row in rows]

    def entries(self, model: str | None = None) -> Iterator[CacheEntry]:
        """Iterate over all entries, or over those of one model, ordered by key.

        Raises:
            StoreError: If a stored text is not a request or completion.
        """
        where, values = _where_clause(model, None)
        rows = self._database.run(
            f"SELECT key, model, asked, request, reply FROM replies {where} ORDER BY key", *values
        )
        for key, entry_model, time_s, request_json, reply_json in rows:
            request, reply = self._parse(key, request_json, ChatRequest), self._parse(key, reply_json, Completion)
            yield CacheEntry(key=key, model=entry_model, asked=time_s, request=request, reply=reply)

    def prune(self, model: str | None = None, before: float | None = None) -> int:
        """Delete completions.

        Args:
            model: Only those of this model; None for all.
            before: Only those requested before this time, in seconds since 1970; None for all.

        Returns:
            The number of deleted completions.
        """
        where, values = _where_clause(model, before)
        return self._database.run(f"DELETE FROM replies {where}", *values).rowcount

    def count(self, model: str | None = None, before: float | None = None) -> int:
        """Return the number of completions that `prune` would delete."""
        where, values = _where_clause(model, before)
        return int(self._database.run(f"SELECT count(*) FROM replies {where}", *values).fetchone()[0])

    def _parse(self, key: str, text: str, record: type[RecordT]) -> RecordT:
        try:
            return record.model_validate_json(text)
        except ValidationError as error:
            raise StoreError(f"{self._database.path}: entry {key} is not a {record.__name__}: {error}") from error


def _where_clause(model: str | None, before: float | None) -> tuple[str, list[Any]]:
    """Return the SQL clause of the conditions that are not None, and its values."""
    conditions = {"model = ?": model, "asked < ?": before}
    active = {condition: value for condition, value in conditions.items() if value is not None}
    return (f"WHERE {' AND '.join(active)}" if active else ""), list(active.values())
