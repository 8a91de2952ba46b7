"""Check the databases of a store, and save what can be read of a damaged one."""

import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from tapir_exp.core.disk import set_aside
from tapir_exp.core.errors import StoreError
from tapir_exp.llm import inflight
from tapir_exp.llm.call_store import CALLS_SCHEMA, TRAFFIC_FILE, calls_file
from tapir_exp.llm.chat import ChatRequest, Completion
from tapir_exp.llm.ledger import AMOUNTS, is_plausible_amount, repair_spend
from tapir_exp.llm.response_cache import unpack
from tapir_exp.llm.sqlite import Database

KEY_COLUMNS = {
    "completions": ("id",),
    "replies": ("key",),
    "spend": ("scope", "job", "stage", "role"),
    "faults": ("scope", "job", "stage", "role", "kind"),
    "given_up": ("scope", "job", "stage", "key"),
    "batched": ("account", "key"),
}
"""Primary key of each table of paid calls, by which its rows are read from both ends."""
JOURNALS = ("-wal", "-shm")
"""Suffixes of the files next to a database in write-ahead mode."""


def find_problem(path: Path, schema: str) -> str | None:
    """Return why a database cannot be used; None if it can, or does not exist yet.

    Every page is read.
    """
    if not path.exists():
        return None
    try:
        with closing(Database(path, schema, durable=True)) as database:
            (verdict,) = database.run("PRAGMA integrity_check(1)").fetchone()
            return None if verdict == "ok" else f"{path}: the file is damaged: {' '.join(verdict.split())}"
    except StoreError as error:
        return str(error)


def unreadable_spend(root: Path) -> int:
    """Return the number of rows of the spend with an amount that cannot be true."""
    with closing(Database(calls_file(root), CALLS_SCHEMA, durable=True)) as database:
        rows = database.run(f"SELECT {', '.join(AMOUNTS)} FROM spend").fetchall()
    return sum(not all(map(is_plausible_amount, AMOUNTS, row)) for row in rows)


def unreadable_replies(root: Path, *, delete: bool = False) -> int:
    """Return the number of cached completions that cannot be parsed; with `delete`, remove them.

    A run that needs one of them stops there, until it is deleted and paid for again.
    """
    with closing(Database(calls_file(root), CALLS_SCHEMA, durable=True)) as database:
        rows = database.run("SELECT key, request, reply FROM replies")
        earlier = [(key,) for key, request, reply in rows if not _is_entry(request, reply)]
        rows = database.run("SELECT id, content FROM completions")
        bad = [(number,) for number, content in rows if not _is_packed_entry(content)]
        if delete:
            with database.transaction():
                database.run_many("DELETE FROM replies WHERE key = ?", earlier)
                database.run_many("DELETE FROM completions WHERE id = ?", bad)
    return len(earlier) + len(bad)


def mend_spend(root: Path) -> int:
    """Set amounts that cannot be true to zero and their price to unknown; return the number of changed rows."""
    with closing(Database(calls_file(root), CALLS_SCHEMA, durable=True)) as database:
        return repair_spend(database)


def refuse_running(root: Path) -> None:
    """Check that no process uses the databases of a store.

    Raises:
        StoreError: If one does.
    """
    for path in (root / inflight.OWNERS).glob("*.lock"):
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            pid = path.stem.partition("-")[0]
            raise StoreError(f"{root} is in use by process {pid}; stop it, or wait for its end, then repeat.") from None


def renew_traffic(root: Path) -> Path:
    """Put the database of limits and locks aside, and return its new path; it holds the last minute only."""
    refuse_running(root)
    return _set_database_aside(root / TRAFFIC_FILE)


def salvage_calls(root: Path) -> tuple[Path, dict[str, int]]:
    """Copy the readable rows of a damaged database of paid calls into a new one.

    Returns:
        The path at which the damaged file is kept, and the number of saved rows by table.

    Raises:
        StoreError: If a process uses the store.
    """
    refuse_running(root)
    path = calls_file(root)
    new = path.with_name(path.name + ".salvaged")
    for suffix in ("", *JOURNALS):
        path.with_name(new.name + suffix).unlink(missing_ok=True)
    with closing(Database(new, CALLS_SCHEMA, durable=True)) as database:
        saved = {table: _copy_table(path, database, table) for table in KEY_COLUMNS}
    kept = _set_database_aside(path)
    new.rename(path)
    return kept, saved


def _copy_table(damaged: Path, database: Database, table: str) -> int:
    """Copy the rows of a table that can be read from its start and, if the start ends at damage, from its end."""
    columns = [row[0] for row in database.run(f"SELECT name FROM pragma_table_info('{table}')")]
    statement = f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(columns))})"
    with database.transaction():
        for direction in ("ASC", "DESC"):
            order = ", ".join(f"{column} {direction}" for column in KEY_COLUMNS[table])
            rows = _readable_rows(damaged, f"SELECT {', '.join(columns)} FROM {table} ORDER BY {order}")
            database.run_many(statement, (row for row in rows if _IS_WHOLE[table](row)))
    return int(database.run(f"SELECT count(*) FROM {table}").fetchone()[0])


def _readable_rows(path: Path, query: str) -> Iterator[Sequence[Any]]:
    """Yield rows up to the first damaged page."""
    # A new connection, because an error can leave the old one without its schema.
    with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema = ON")  # reads a file that is shorter than the size in its header
        connection.text_factory = lambda content: content.decode(errors="replace")
        yield from connection.execute(query)


def _is_entry(request: object, reply: object) -> bool:
    try:
        ChatRequest.model_validate_json(request)  # type: ignore[arg-type]  # a wrong type is an error of validation
        Completion.model_validate_json(reply)  # type: ignore[arg-type]
    except ValidationError:
        return False
    return True


def _is_packed_entry(content: object) -> bool:
    try:
        return _is_entry(*unpack(content))  # type: ignore[arg-type]  # a wrong type is an error of decompression
    except (zlib.error, ValueError, TypeError):
        return False


def _is_packed_row(row: Sequence[Any]) -> bool:
    number, key, model, asked, size, content = row
    typed = isinstance(number, int) and isinstance(key, bytes | str) and isinstance(size, int)
    return typed and isinstance(model, str) and isinstance(asked, float) and _is_packed_entry(content)


def _all_text(row: Sequence[Any]) -> bool:
    return all(isinstance(cell, str) for cell in row)


_IS_WHOLE: dict[str, Callable[[Sequence[Any]], bool]] = {
    "completions": _is_packed_row,
    "replies": lambda row: _all_text((*row[:2], *row[3:])) and _is_entry(row[3], row[4]),
    "spend": lambda row: _all_text(row[:4]) and all(map(is_plausible_amount, AMOUNTS, row[4:])),
    "faults": lambda row: _all_text(row[:5]) and isinstance(row[5], int),
    "given_up": _all_text,
    "batched": _all_text,
}
"""Tests of a row that was read from a damaged file."""


def _set_database_aside(path: Path) -> Path:
    aside = set_aside(path)
    for suffix in JOURNALS:
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside
