"""A SQLite database that several processes write at once; the file must be on a local disk."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tapir_exp.core.errors import StoreError

BUSY_TIMEOUT_S = 60.0
"""Longest wait for another process's write, which takes far less than a millisecond."""
RETRY_S = 0.01
"""Interval of attempts to turn on write-ahead mode."""


class Database:
    """A SQLite database in write-ahead mode: readers never wait, and a killed process leaves no partial write."""

    def __init__(self, path: Path, schema: str, *, durable: bool) -> None:
        """Open the database, or create it.

        Args:
            path: The file.
            schema: Statements that create the tables if they are missing.
            durable: Whether a write waits for the disk, so that it survives a power failure; without it a write
                survives only the end of the process.

        Raises:
            StoreError: If the file is not a SQLite database.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # isolation_level=None: statements are committed at once, and transactions are begun explicitly.
        self._connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            self._enable_write_ahead()
            self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}")
            self._connection.executescript(schema)
        except sqlite3.DatabaseError as error:
            self.close()
            raise StoreError(f"{path}: expected a database of tapir_exp ({error}); move the file away.") from error

    def _enable_write_ahead(self) -> None:
        """Turn on write-ahead mode."""
        # While another process turns it on, SQLite fails at once instead of waiting BUSY_TIMEOUT_S.
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
        """Execute one statement; outside `transaction` it is committed at once."""
        return self._connection.execute(statement, values)

    def run_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> sqlite3.Cursor:
        """Execute one statement for every row of values."""
        return self._connection.executemany(statement, rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block as one transaction: all of its writes or none, and no other process writes in between."""
        # IMMEDIATE takes the write lock now; a plain BEGIN could fail at its first write instead of waiting.
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the database."""
        self._connection.close()
