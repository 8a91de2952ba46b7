"""One SQLite file that runs and sweep jobs write to at once; the file must be on a local disk."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tapir_exp.core.errors import StoreError

BUSY_TIMEOUT_S = 60.0
"""How long a process waits for another's write; one takes far less than a millisecond."""

RETRY_S = 0.01


class Database:
    """A file in write-ahead mode: readers never wait, writers wait for each other, a killed process leaves no half."""

    def __init__(self, path: Path, schema: str, *, durable: bool) -> None:
        """Open or make the file. Raises StoreError where it is no database.

        durable: whether a finished write outlives a power cut too, for which it waits for the disk; else a killed
        process loses nothing, but a power cut may.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            self._write_ahead()
            self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}")
            self._connection.executescript(schema)
        except sqlite3.DatabaseError as error:
            self.close()
            raise StoreError(f"{path}: not a database of tapir ({error}); move it away.") from error

    def _write_ahead(self) -> None:
        """Turn write-ahead mode on; while another process does so, SQLite refuses at once instead of waiting."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_S)

    def run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Execute one statement; outside `transaction` it is one of its own."""
        return self._connection.execute(statement, values)

    def run_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> sqlite3.Cursor:
        """Execute one statement for every row of values."""
        return self._connection.executemany(statement, rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; no other process writes in between."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
