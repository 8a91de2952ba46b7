"""A SQLite database that several processes write at once; the file must be on a local disk."""

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tapir_exp.core.disk import FULL, READ_ONLY, RESUME, sync_file
from tapir_exp.core.errors import StoreError

BUSY_TIMEOUT_S = 60.0
"""Longest wait for another process's write, which takes far less than a millisecond."""
RETRY_S = 0.01
"""Interval of attempts to turn on write-ahead mode."""
PAGES_PER_CHECKPOINT = 4000
"""Pages of the log, 16 MB, that are merged into the file at once; this waits for the disk."""
PRIMARY_CODE = 0xFF
"""Mask of SQLite's primary error code; the other bits hold details."""
KEEP = "It holds completions that were paid for, so do not delete it"
DOCTOR = "`tapir doctor DIR --fix`, with the directory of the store, saves what can be read"
REMEDIES = {
    sqlite3.SQLITE_FULL: f"{FULL}. {RESUME}",
    sqlite3.SQLITE_IOERR: f"the disk reports an error; probably {FULL}. {RESUME}",
    sqlite3.SQLITE_READONLY: f"this user may not write the file, or {READ_ONLY}. {RESUME}",
    sqlite3.SQLITE_CANTOPEN: (
        f"the file cannot be opened: its directory must be writable and have space and inodes left. {RESUME}"
    ),
    sqlite3.SQLITE_PERM: f"this user may not open the file; change its permissions. {RESUME}",
    sqlite3.SQLITE_BUSY: (
        f"another process has kept it locked for {BUSY_TIMEOUT_S:g} s; stop that process, or move the store to a local "
        f"disk if this is a network disk. {RESUME}"
    ),
    sqlite3.SQLITE_CORRUPT: f"the file is damaged. {KEEP}: {DOCTOR}, or restore a backup.",
    sqlite3.SQLITE_NOTADB: f"the file is not a SQLite database. {KEEP} if it was one: {DOCTOR}, or restore a backup.",
}
"""Reason and remedy by primary error code."""


class _ExplainingConnection(sqlite3.Connection):
    """A connection whose file is named in errors."""

    path: Path


class _ExplainingCursor(sqlite3.Cursor):
    """A cursor that raises StoreError, with the file and the remedy, instead of the errors of SQLite."""

    connection: _ExplainingConnection

    def execute(self, *arguments: Any) -> "_ExplainingCursor":
        try:
            super().execute(*arguments)
        except sqlite3.DatabaseError as error:
            raise explain(self.connection.path, error) from error
        return self

    def executemany(self, *arguments: Any) -> "_ExplainingCursor":
        try:
            super().executemany(*arguments)
        except sqlite3.DatabaseError as error:
            raise explain(self.connection.path, error) from error
        return self

    def fetchone(self) -> Any:
        try:
            return super().fetchone()
        except sqlite3.DatabaseError as error:
            raise explain(self.connection.path, error) from error

    def fetchall(self) -> list[Any]:
        try:
            return super().fetchall()
        except sqlite3.DatabaseError as error:
            raise explain(self.connection.path, error) from error

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except sqlite3.DatabaseError as error:
            raise explain(self.connection.path, error) from error


def explain(path: Path, error: sqlite3.Error) -> Exception:
    """Return a StoreError with the reason and the remedy, or the error itself if the program is at fault."""
    if isinstance(error, sqlite3.ProgrammingError):
        return error
    remedy = REMEDIES.get(getattr(error, "sqlite_errorcode", 0) & PRIMARY_CODE)
    if remedy is None:
        remedy = f"expected a database of tapir_exp. {KEEP}; check that the path is right and the version the same."
    return StoreError(f"{path} ({error}): {remedy}")


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
            StoreError: If the file cannot be opened or written, is damaged, or has tables of another program.
        """
        self.path = path
        self._synchronous = "FULL" if durable else "OFF"
        self._log: int | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # isolation_level=None: statements are committed at once, and transactions are begun explicitly.
            self._connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, factory=_ExplainingConnection
            )
        except sqlite3.Error as error:
            raise explain(path, error) from error
        self._connection.path = path
        try:
            if durable:
                # Only a new file takes it: pages of deleted rows can then be returned to the disk, see compaction.
                self._connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            self._enable_write_ahead()
            self._connection.execute(f"PRAGMA wal_autocheckpoint={PAGES_PER_CHECKPOINT}")
            self._connection.execute(f"PRAGMA synchronous={self._synchronous}")
            self._connection.executescript(schema)
            self._check_columns(schema)
        except sqlite3.DatabaseError as error:
            self.close()
            raise explain(path, error) from error
        except StoreError:
            self.close()
            raise

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

    def _check_columns(self, schema: str) -> None:
        """Compare the tables of the file with those of the schema, since CREATE IF NOT EXISTS accepts any table.

        Raises:
            StoreError: If a table has other columns.
        """
        expected = sqlite3.connect(":memory:")
        expected.executescript(schema)
        for (table,) in expected.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            statement = f"SELECT name FROM pragma_table_info('{table}')"
            wanted, given = (
                [row[0] for row in rows.fetchall()] for rows in (expected.execute(statement), self.run(statement))
            )
            if wanted != given:
                raise StoreError(
                    f"{self.path}: the table {table} has the columns {', '.join(given)}; expected {', '.join(wanted)}. "
                    "The file was written by another program or version: use that one, or another outputs directory."
                )
        expected.close()

    def run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Execute one statement; outside `transaction` it is committed at once."""
        return self._cursor().execute(statement, values)

    def run_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> sqlite3.Cursor:
        """Execute one statement for every row of values."""
        return self._cursor().executemany(statement, rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block as one transaction: all of its writes or none, and no other process writes in between."""
        # IMMEDIATE takes the write lock now; a plain BEGIN could fail at its first write instead of waiting.
        self.run("BEGIN IMMEDIATE")
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            # A full disk has already rolled the transaction back.
            if self._connection.in_transaction:
                self.run("ROLLBACK")
            raise

    @contextmanager
    def without_sync(self) -> Iterator[None]:
        """Commit within the block without a wait for the disk; `sync` waits for it."""
        # NORMAL hands the log to the system at once, so only a power failure could lose it, and never damages the file.
        self.run("PRAGMA synchronous=NORMAL")
        try:
            yield
        finally:
            self.run(f"PRAGMA synchronous={self._synchronous}")

    def sync(self) -> None:
        """Wait until everything that was committed is on disk; callable in any thread.

        Raises:
            StoreError: If the disk reports an error.
        """
        path = Path(f"{self.path}-wal")
        try:
            if self._log is None:
                sync_file(path.parent)  # the name of a new file
                # Kept open: each system call of another thread takes the interpreter from the event loop.
                self._log = os.open(path, os.O_RDONLY)
            os.fsync(self._log)
        except OSError as error:
            raise StoreError(f"{path} ({error}): {REMEDIES[sqlite3.SQLITE_IOERR]}") from error

    def close(self) -> None:
        """Close the database."""
        self._connection.close()
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def _cursor(self) -> _ExplainingCursor:
        return self._connection.cursor(_ExplainingCursor)
