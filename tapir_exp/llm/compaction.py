"""Return the disk space of deleted completions, and rewrite those of earlier versions in the present form."""

from collections.abc import Sequence
from typing import Any

from tapir_exp.core.errors import StoreError
from tapir_exp.llm.call_store_repair import refuse_running
from tapir_exp.llm.response_cache import pack, stored_key
from tapir_exp.llm.sqlite import Database

PAGES_PER_STEP = 2000
"""Pages that one transaction returns; other processes write in between."""
ROWS_PER_STEP = 500
"""Earlier completions that one transaction rewrites."""
INCREMENTAL = 2
"""SQLite's code of a file that can return pages one by one."""


def return_space(database: Database) -> int:
    """Return the pages of deleted rows to the disk, and the number of bytes by which the file is smaller.

    A file of this version returns them step by step, also while a run uses it. A file of an earlier version is
    rewritten, which needs the space of its contents once more.

    Raises:
        StoreError: If the file must be rewritten while a process uses it, or the disk is full.
    """
    before = database.path.stat().st_size
    if database.run("PRAGMA auto_vacuum").fetchone()[0] == INCREMENTAL:
        while _free_pages(database):
            # Each row of the result stands for a page, which is returned as the row is read.
            database.run(f"PRAGMA incremental_vacuum({PAGES_PER_STEP})").fetchall()
    elif _free_pages(database):
        refuse_running(database.path.parent)
        database.run("PRAGMA auto_vacuum=INCREMENTAL")
        database.run("VACUUM")
    # The file shrinks when the write-ahead log is merged into it.
    database.run("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return before - database.path.stat().st_size


def rewrite_earlier(database: Database) -> int:
    """Rewrite the completions of the earlier table in the present form; return their number.

    Each step is one transaction, so that a kill loses none; the next call continues.
    """
    count = 0
    while rows := database.run(f"SELECT * FROM replies LIMIT {ROWS_PER_STEP}").fetchall():
        with database.transaction():
            statement = "INSERT OR IGNORE INTO completions (key, model, asked, size, content) VALUES (?, ?, ?, ?, ?)"
            database.run_many(statement, map(_present_row, rows))
            database.run_many("DELETE FROM replies WHERE key = ?", [(row[0],) for row in rows])
        count += len(rows)
    return count


def _present_row(row: Sequence[Any]) -> tuple[Any, ...]:
    key, model, asked, request, reply = row
    if not all(isinstance(text, str) and "\n" not in text for text in (request, reply)):
        raise StoreError(
            f"the entry {key} is damaged: `tapir doctor` with the directory of the store and --fix mends it."
        )
    return (stored_key(key), model, asked, *pack(request, reply))


def _free_pages(database: Database) -> int:
    return int(database.run("PRAGMA freelist_count").fetchone()[0])
