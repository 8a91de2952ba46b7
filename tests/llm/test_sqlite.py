"""SQLite database that several processes share."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tapir_exp.core.errors import StoreError
from tapir_exp.llm.sqlite import Database

SCHEMA = "CREATE TABLE IF NOT EXISTS numbers (number INTEGER PRIMARY KEY);"

ADDER = """
import sys
from pathlib import Path
from tapir_exp.llm.sqlite import Database
database = Database(Path(sys.argv[1]), "CREATE TABLE IF NOT EXISTS sums (total INTEGER);", durable=False)
sys.stdin.readline()
for _ in range(1000):
    with database.transaction():
        (total,) = database.run("SELECT total FROM sums").fetchone()
        database.run("UPDATE sums SET total = ?", total + 1)
"""


def numbers(database: Database) -> list[int]:
    return [row[0] for row in database.run("SELECT number FROM numbers ORDER BY number")]


def test_statement_is_visible_to_other_connections(tmp_path: Path) -> None:
    path = tmp_path / "below" / "file.sqlite"
    first, second = (Database(path, SCHEMA, durable=True) for _ in range(2))
    first.run("INSERT INTO numbers VALUES (?)", 1)
    first.run_many("INSERT INTO numbers VALUES (?)", [(2,), (3,)])
    assert numbers(second) == [1, 2, 3]


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 0)])
def test_durable_sets_synchronous_mode(tmp_path: Path, durable: bool, level: int) -> None:
    database = Database(tmp_path / "file.sqlite", SCHEMA, durable=durable)
    assert database.run("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.run("PRAGMA synchronous").fetchone() == (level,)


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 0)])
def test_without_sync_leaves_the_wait_to_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, level: int
) -> None:
    database = Database(tmp_path / "file.sqlite", SCHEMA, durable=durable)

    def fail() -> None:
        assert database.run("PRAGMA synchronous").fetchone() == (1,)
        database.run("INSERT INTO numbers VALUES (1)")
        raise RuntimeError

    with pytest.raises(RuntimeError), database.without_sync():
        fail()
    assert database.run("PRAGMA synchronous").fetchone() == (level,)
    synced: list[str] = []
    monkeypatch.setattr("tapir_exp.llm.sqlite.sync_file", lambda path: synced.append(path.name))
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
    )
    for _ in range(2):
        database.sync()
    # The directory once, for the name of a new file.
    assert synced == [tmp_path.name, "file.sqlite-wal", "file.sqlite-wal"]
    database.close()


@pytest.mark.slow
def test_file_can_be_created_concurrently(tmp_path: Path) -> None:
    barrier = Barrier(8)

    def open_all(number: int) -> None:
        for count in range(100):
            barrier.wait(60)
            try:
                Database(tmp_path / f"{count}.sqlite", SCHEMA, durable=False).close()
            except StoreError:
                barrier.abort()
                raise

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(open_all, range(8)))


def test_transaction_is_visible_after_commit_only(tmp_path: Path) -> None:
    writer, reader = (Database(tmp_path / "file.sqlite", SCHEMA, durable=False) for _ in range(2))
    with writer.transaction():
        writer.run("INSERT INTO numbers VALUES (1)")
        assert numbers(reader) == []
    assert numbers(reader) == [1]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failed_transaction_is_rolled_back(tmp_path: Path, error: type[BaseException]) -> None:
    database = Database(tmp_path / "file.sqlite", SCHEMA, durable=False)

    def write_and_fail() -> None:
        with database.transaction():
            database.run("INSERT INTO numbers VALUES (1)")
            raise error

    with pytest.raises(error):
        write_and_fail()
    with database.transaction():
        database.run("INSERT INTO numbers VALUES (2)")
    assert numbers(database) == [2]


def test_transactions_of_processes_do_not_interleave(tmp_path: Path) -> None:
    path = tmp_path / "file.sqlite"
    database = Database(path, "CREATE TABLE sums (total INTEGER); INSERT INTO sums VALUES (0);", durable=False)
    command = [sys.executable, "-c", ADDER, str(path)]
    adders = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(2)]
    time.sleep(0.5)  # both wait for their line, so that they start barrier
    for adder in adders:
        assert adder.stdin is not None
        adder.stdin.write("\n")
        adder.stdin.flush()
    assert [adder.wait(60) for adder in adders] == [0, 0]
    assert database.run("SELECT total FROM sums").fetchone() == (2000,)


def fill(database: Database) -> None:
    """Write more than fits."""
    database.run("PRAGMA max_page_count = 3")
    with database.transaction():
        for number in range(2000):
            database.run("INSERT INTO numbers VALUES (?)", number)


def write_read_only(database: Database) -> None:
    """Write where this is not allowed."""
    database.run("PRAGMA query_only = 1")
    database.run("INSERT INTO numbers VALUES (-1)")


@pytest.mark.parametrize(
    ("write", "reason"),
    [(fill, "no space or no inodes are left .* repeat the same command"), (write_read_only, "read-only")],
)
def test_failed_write_names_the_remedy(tmp_path: Path, write: Callable[[Database], None], reason: str) -> None:
    database = Database(tmp_path / "file.sqlite", SCHEMA, durable=True)
    with pytest.raises(StoreError, match=rf"file\.sqlite .*: .*{reason}") as error:
        write(database)
    assert "delete" not in str(error.value)
    assert numbers(database) == []
    database.run("PRAGMA query_only = 0")
    database.run("PRAGMA max_page_count = 1000")
    database.run("INSERT INTO numbers VALUES (7)")  # no transaction was left open
    assert numbers(database) == [7]


def make_letter(path: Path) -> None:
    path.write_text("This is a letter, not a database. " * 100)


def cut(path: Path) -> None:
    fill_file(path)
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path: Path) -> None:
    fill_file(path)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8 * 4096)


def fill_file(path: Path) -> None:
    database = Database(path, SCHEMA, durable=False)
    with database.transaction():
        database.run_many("INSERT INTO numbers VALUES (?)", [(number,) for number in range(20_000)])
    database.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (make_letter, "is not a SQLite database"),
        (cut, "the file is damaged"),
        (overwrite, "the file is damaged"),
        (Path.mkdir, "its directory must be writable"),
    ],
)
def test_damaged_file_is_named_and_not_thrown_away(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    path = tmp_path / "file.sqlite"
    damage(path)
    with pytest.raises(StoreError, match=rf"file\.sqlite .*: .*{reason}") as error:
        numbers(Database(path, SCHEMA, durable=True))
    assert "move" not in str(error.value)


@pytest.mark.parametrize("columns", ["number TEXT, other INTEGER", "count INTEGER"])
def test_table_of_another_program_is_refused(tmp_path: Path, columns: str) -> None:
    path = tmp_path / "file.sqlite"
    Database(path, f"CREATE TABLE numbers ({columns});", durable=True).close()
    with pytest.raises(StoreError, match=r"table numbers has the columns .*; expected number\. .*another program"):
        Database(path, SCHEMA, durable=True)


def test_close_removes_journal_files(tmp_path: Path) -> None:
    database = Database(tmp_path / "file.sqlite", SCHEMA, durable=True)
    database.close()
    assert [path.name for path in tmp_path.iterdir()] == ["file.sqlite"]
    with pytest.raises(sqlite3.ProgrammingError):
        numbers(database)
