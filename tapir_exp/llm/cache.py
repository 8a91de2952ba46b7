"""Replies that were paid for once: a content-addressed SQLite file that runs and sweep jobs share."""

import json
import sqlite3
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tapir_exp.errors import StoreError
from tapir_exp.llm.chat import ChatRequest, Reply

BUSY_TIMEOUT_S = 60.0
"""How long a process waits for another's write; one takes far less than a millisecond."""


def cache_key(identity: Mapping[str, Any], request: ChatRequest) -> str:
    """The address of a reply: SHA-256, in hex, over everything that could change it."""
    text = json.dumps([identity, request.model_dump()], sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


class ReplyCache:
    """Good replies by key. A reply outlives a killed process once `put` has returned; the file must be local."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises StoreError where it is no reply cache."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT)")
        except sqlite3.DatabaseError as error:
            self.close()
            raise StoreError(f"{path}: not a reply cache ({error}).") from error

    def get(self, key: str) -> Reply | None:
        """The reply, or None. Raises StoreError where what is stored is not a reply of this version."""
        row = self._database.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        try:
            return Reply.model_validate_json(row[0])
        except ValidationError as error:
            raise StoreError(f"{self._path}: the entry {key} is not a reply: {error}") from error

    def put(self, key: str, reply: Reply) -> Reply:
        """Keep a reply, and return the one that counts: the first, should two processes have asked at once."""
        statement = "INSERT INTO replies VALUES (?, ?) ON CONFLICT DO NOTHING"
        added = self._database.execute(statement, (key, reply.model_dump_json())).rowcount
        return reply if added else self.get(key) or reply

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()
