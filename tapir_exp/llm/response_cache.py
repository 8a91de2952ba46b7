"""Cache of completions, addressed by request and shared by all runs of a store.

Entries are compressed, in a table whose rows are in the order of their arrival. Stores of earlier versions have them as
JSON text in the table `replies`, which is still read; `tapir cache compact` converts it.
"""

import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from heapq import merge
from operator import attrgetter
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
CREATE TABLE IF NOT EXISTS completions
    (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, model TEXT, asked REAL, size INTEGER, content BLOB);
"""
TABLES = ("completions", "replies")
"""Tables of completions, the present one and that of earlier versions."""
COMPRESSION_LEVEL = 1
"""Entries are a few kilobytes: higher levels of zlib save a hundredth and take longer."""
WINDOW_BITS, MEMORY_LEVEL = 13, 6
"""Window of 8 kB, as long as an entry, and small tables: the default ones take longer to allocate than to use."""
KEY_HEX_DIGITS = 64
KEYS_PER_QUERY = 500
"""Keys per SELECT statement."""

NEW_ROW = "(?, ?, ?, ?, ?)"

_encode_key = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_quote = json.encoder.encode_basestring_ascii
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
    return request_key(encode_identity(identity), request)


def encode_identity(identity: Mapping[str, Any]) -> str:
    """Return the part of the text behind a key that is the same for all requests to a model."""
    return _encode_key(identity)


def request_key(identity: str, request: ChatRequest) -> str:
    """Return the key of a request; `identity` is that of `encode_identity`."""
    # Stored caches depend on these exact bytes: those of json.dumps([identity, request.model_dump()], sort_keys=True).
    # A general encoder takes three times as long.
    turns = ",".join([f'{{"content":{_quote(turn.content)},"role":"{turn.role}"}}' for turn in request.messages])
    text = (
        f'[{identity},{{"max_tokens":{request.max_tokens},"messages":[{turns}],"sample":{request.sample},'
        f'"temperature":{request.temperature!r},"top_logprobs":{request.top_logprobs}}}]'
    )
    return sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class NewEntry:
    """A completion that waits to be stored.

    Attributes:
        key: Key of the request.
        model: Name of the model.
        request: The request.
        completion: The completion.
        is_usable: Whether a completion that is stored already can be used instead.
    """

    key: str
    model: str
    request: ChatRequest
    completion: Completion
    is_usable: Callable[[Completion], bool]

    def __call__(self, cache: "ResponseCache") -> Completion:
        """Store the completion, and return the one that is valid: an earlier one, unless it cannot be used."""
        stored = cache.put(self.key, self.model, self.request, self.completion)
        if stored is self.completion or self.is_usable(stored):
            return stored
        return cache.put(self.key, self.model, self.request, self.completion, replace=True)


class ResponseCache:
    """Usable completions by key. A completion is on disk once the transaction around `put` ends."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # A store of this version has no entries in the earlier table, so that a lookup is one statement.
        self._has_earlier = bool(database.run("SELECT EXISTS (SELECT 1 FROM replies)").fetchone()[0])

    def get(self, key: str) -> Completion | None:
        """Return a completion, or None if it is not cached.

        Raises:
            StoreError: If the stored text is not a completion.
        """
        row = self._database.run("SELECT content FROM completions WHERE key = ?", stored_key(key)).fetchone()
        if row is not None:
            return self._parse(key, self._unpack(key, row[0])[1], Completion)
        if self._has_earlier:
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
            if self._has_earlier:
                rows = self._database.run(f"SELECT key, reply FROM replies WHERE key IN ({marks})", *chunk)
                completions.update((key, self._parse(key, text, Completion)) for key, text in rows)
            wanted = map(stored_key, chunk)
            rows = self._database.run(f"SELECT key, content FROM completions WHERE key IN ({marks})", *wanted)
            for stored, content in rows:
                key = read_key(stored)
                completions[key] = self._parse(key, self._unpack(key, content)[1], Completion)
        return completions

    def find_keys(self, keys: Iterable[str]) -> set[str]:
        """Return the keys that have a completion."""
        query = "SELECT 1 FROM completions WHERE key = ? UNION ALL SELECT 1 FROM replies WHERE key = ?"
        return {key for key in keys if self._database.run(query, stored_key(key), key).fetchone()}

    def put(
        self, key: str, model: str, request: ChatRequest, completion: Completion, *, replace: bool = False
    ) -> Completion:
        """Store a completion, and return the stored one.

        If another process has stored a completion of the same request, the first one is valid for all. With `replace`,
        the first one cannot be used and is replaced.
        """
        if self._has_earlier:
            if replace:
                self._database.run("DELETE FROM replies WHERE key = ?", key)
            elif (earlier := self.get(key)) is not None:
                return earlier
        entry = pack(request.model_dump_json(), completion.model_dump_json())
        conflict = "OR REPLACE" if replace else "OR IGNORE"
        cursor = self._database.run(
            f"INSERT {conflict} INTO completions (key, model, asked, size, content) VALUES {NEW_ROW}",
            *(stored_key(key), model, time.time(), *entry),
        )
        return completion if cursor.rowcount else self.get(key) or completion

    def put_many(self, entries: Sequence[NewEntry]) -> list[Completion]:
        """Store entries, nearly always with one statement, and return the stored completions."""
        if not self._has_earlier and len(entries) <= KEYS_PER_QUERY:
            asked = time.time()
            values: list[Any] = []
            for entry in entries:
                packed = pack(entry.request.model_dump_json(), entry.completion.model_dump_json())
                values += (stored_key(entry.key), entry.model, asked, *packed)
            marks = ",".join([NEW_ROW] * len(entries))
            statement = f"INSERT OR IGNORE INTO completions (key, model, asked, size, content) VALUES {marks}"
            if not entries or self._database.run(statement, *values).rowcount == len(entries):
                return [entry.completion for entry in entries]
        # Another process has stored some of them.
        return [entry(self) for entry in entries]

    def summaries(self) -> list[CacheSummary]:
        """Return a summary of each model, by name."""
        rows = self._database.run(
            "SELECT model, count(*), min(asked), max(asked), sum(size) FROM ("
            "SELECT model, asked, size FROM completions "
            "UNION ALL SELECT model, asked, length(request) + length(reply) FROM replies) GROUP BY model ORDER BY model"
        )
        return [CacheSummary(*row) for row in rows]

    def entries(self, model: str | None = None) -> Iterator[CacheEntry]:
        """Iterate over all entries, or over those of one model, ordered by key.

        Raises:
            StoreError: If a stored text is not a request or completion.
        """
        where, values = _where_clause(model, None)
        packed = self._database.run(f"SELECT key, model, asked, content FROM completions {where} ORDER BY key", *values)
        earlier = self._database.run(
            f"SELECT key, model, asked, request, reply FROM replies {where} ORDER BY key", *values
        )
        # Both in the order of their keys, so that nothing has to be sorted.
        yield from merge(map(self._read_packed, packed), map(self._read_earlier, earlier), key=attrgetter("key"))

    def prune(self, model: str | None = None, before: float | None = None) -> int:
        """Delete completions.

        Args:
            model: Only those of this model; None for all.
            before: Only those requested before this time, in seconds since 1970; None for all.

        Returns:
            The number of deleted completions.
        """
        where, values = _where_clause(model, before)
        return sum(self._database.run(f"DELETE FROM {table} {where}", *values).rowcount for table in TABLES)

    def count(self, model: str | None = None, before: float | None = None) -> int:
        """Return the number of completions that `prune` would delete."""
        where, values = _where_clause(model, before)
        counts = [self._database.run(f"SELECT count(*) FROM {table} {where}", *values).fetchone() for table in TABLES]
        return sum(count for (count,) in counts)

    def _read_packed(self, row: tuple[Any, ...]) -> CacheEntry:
        stored, model, asked, content = row
        key = read_key(stored)
        return self._read_earlier((key, model, asked, *self._unpack(key, content)))

    def _read_earlier(self, row: tuple[Any, ...]) -> CacheEntry:
        key, model, asked, request_json, reply_json = row
        request, reply = self._parse(key, request_json, ChatRequest), self._parse(key, reply_json, Completion)
        return CacheEntry(key=key, model=model, asked=asked, request=request, reply=reply)

    def _unpack(self, key: str, content: bytes) -> tuple[str, str]:
        try:
            return unpack(content)
        except (zlib.error, ValueError, TypeError) as error:
            raise StoreError(f"{self._database.path}: entry {key} is not a Completion: {error}") from error

    def _parse(self, key: str, text: str, record: type[RecordT]) -> RecordT:
        try:
            return record.model_validate_json(text)
        except ValidationError as error:
            raise StoreError(f"{self._database.path}: entry {key} is not a {record.__name__}: {error}") from error


def stored_key(key: str) -> bytes | str:
    """Return a key as it is stored: the 32 bytes of a SHA-256; any other text stays as it is."""
    return bytes.fromhex(key) if len(key) == KEY_HEX_DIGITS else key


def read_key(stored: bytes | str) -> str:
    """Return a key from what is stored."""
    return stored.hex() if isinstance(stored, bytes) else stored


def pack(request_json: str, reply_json: str) -> tuple[int, bytes]:
    """Return the number of characters of an entry, and its compressed text."""
    # JSON as pydantic writes it has no line feeds, so one separates the two.
    text = f"{request_json}\n{reply_json}"
    return len(text) - 1, _deflate(text.encode())


def _deflate(text: bytes) -> bytes:
    compressor = zlib.compressobj(COMPRESSION_LEVEL, wbits=WINDOW_BITS, memLevel=MEMORY_LEVEL)
    return compressor.compress(text) + compressor.flush()


def unpack(content: bytes) -> tuple[str, str]:
    """Return request and reply of a compressed entry as JSON. Raises zlib.error, ValueError or TypeError."""
    request, separator, reply = zlib.decompress(content).decode().partition("\n")
    if not separator:
        raise ValueError("it has no reply")
    return request, reply


def _where_clause(model: str | None, before: float | None) -> tuple[str, list[Any]]:
    """Return the SQL clause of the conditions that are not None, and its values."""
    conditions = {"model = ?": model, "asked < ?": before}
    active = {condition: value for condition, value in conditions.items() if value is not None}
    return (f"WHERE {' AND '.join(active)}" if active else ""), list(active.values())
